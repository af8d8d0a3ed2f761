"""Console Gateway: a company JWT in, a console link of a physical server out."""

__version__ = "0.1.0"
