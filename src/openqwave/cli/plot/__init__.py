"""Pictures for people: what was measured, over time, as PNG or SVG.

`target` is the file, `canvas` the drawing library and how everything looks; these two serve every
picture of the command. `measured` and `measured_chart` are of `qwave probe --plot`, `looks` and
`looks_chart` of `qwave paths HOST --plot`: first what is in the picture, as numbers, then how it is
drawn. Nothing here loads the drawing library before there is something to draw.
"""
