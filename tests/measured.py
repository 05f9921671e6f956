"""CPU seconds of each file of eight modules, in the order of their sources.

Measured on 16 cores of an H100 machine with FlashInfer 0.7.2.post1 and nvcc 13.0 for sm_90a; sampling.cu, which was split
then, as it takes alone.
"""

SECONDS = {
    "sampling": (122.0, 37.1, 14.7),
    "fa3": (80.3, 85.3, 85.9, 86.7, 88.5, 88.6, 90.9, 92.7, 65.1, 57.9),
    "fa2": (16.7, 18.4, 19.5, 23.3, 19.9, 19.1, 20.2, 19.1, 11.9, 21.1),
    "rope": (59.1, 17.4),
    "decode": (12.5, 10.7, 13.0),
    "page": (24.1, 10.1),
    "cascade": (9.1, 5.4),
    "quantization": (19.5, 4.5),
}
