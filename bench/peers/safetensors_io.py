"""A small safetensors reader and writer, so that the peer needs nothing but PyTorch and NumPy."""

import json
import math
import struct

import numpy as np

_DTYPES = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "U8": np.dtype("u1"),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


def load(path):
    """Returns (tensors, metadata): a dict of NumPy arrays (native dtype, shape) and the strings of `__metadata__`."""
    with open(path, "rb") as file:
        (header_bytes,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(header_bytes))
        data = file.read()
    metadata = header.pop("__metadata__", {})
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        dtype = _DTYPES[entry["dtype"]]
        if end - begin != dtype.itemsize * math.prod(entry["shape"]) or not 0 <= begin <= end <= len(data):
            raise ValueError(f"{path}: tensor {name} does not fill its byte range")
        # A copy: one array must not keep the whole file in memory.
        tensors[name] = np.frombuffer(data[begin:end], dtype).reshape(entry["shape"]).copy()
    return tensors, metadata


def save(path, tensors, metadata):
    """Writes a dict of NumPy arrays and a dict of strings."""
    header = {"__metadata__": metadata}
    offset = 0
    arrays = [np.ascontiguousarray(array) for array in tensors.values()]
    for name, array in zip(tensors, arrays):
        header[name] = {
            "dtype": _NAMES[array.dtype.newbyteorder("<")],
            "shape": list(array.shape),
            "data_offsets": [offset, offset + array.nbytes],
        }
        offset += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for array in arrays:
            file.write(array.tobytes())
