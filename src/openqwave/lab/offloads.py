"""Offloads of an interface, switched off.

A veth interface claims to do in hardware what no hardware does: it passes a train of segments on
as one packet, with one time stamp, through the queue and to the receiver, and leaves checksums
unfilled because nobody will look. A link's queue then counts and delays trains, packet pairs stick
together, and a capture shows packets of 60 kB with wrong checksums. With the offloads off the
kernel cuts and fills before the interface sees the packet, and the link behaves as a link.

The names are ethtool's. `tx-udp-segmentation` is separate from `gso`, and without checksum
offload the kernel disables scatter-gather too, which segmentation needs. Receive offload is named
although veth starts with it off, because an administrator's defaults may differ.
"""

from __future__ import annotations

from pyroute2.ethtool.ioctl import IoctlEthtool

# The kernel's own feature strings (net/ethtool/common.c). Whichever a kernel lacks is skipped.
OFFLOADS = (
    "tx-generic-segmentation",
    "tx-tcp-segmentation",
    "tx-tcp-ecn-segmentation",
    "tx-tcp-mangleid-segmentation",
    "tx-tcp-accecn-segmentation",
    "tx-tcp6-segmentation",
    "tx-udp-segmentation",
    "tx-sctp-segmentation",
    "tx-gso-list",
    "tx-checksum-ip-generic",
    "tx-checksum-sctp",
    "rx-gro",
    "rx-gro-list",
    "rx-udp-gro-forwarding",
)


def disable_offloads(interface: str) -> None:
    """Switch off every offload that merges packets or leaves checksums open.

    Args:
        interface: Name of an interface in the calling thread's namespace.

    Raises:
        RuntimeError: The interface kept one of them.
    """
    ethtool = IoctlEthtool(interface)
    try:
        features = ethtool.get_features()
        for name in OFFLOADS:
            if name in features and features.is_available(name):
                features[name] = False
        ethtool.set_features(features)
        features = ethtool.get_features()
        kept = [name for name in OFFLOADS if name in features and features.is_active(name)]
    finally:
        ethtool.close()
    if kept:
        raise RuntimeError(f"{interface} keeps the offloads {', '.join(kept)}")
