"""The control protocol between programs and the service, without IO."""
