"""CPU seconds of each file of eight modules, in the order of their sources.

Measured on 16 cores of an H100 machine with FlashInfer 0.7.2.post1 and nvcc 13.0 for sm_90a; sampling.cu, which was split
then, as it takes alone.
"""

SECONDS = {
    "sampling": {
        "sampling.cu": 122.0,
        "renorm.cu": 37.1,
        "flashinfer_sampling_binding.cu": 14.7,
    },
    "fa3": {
        "batch_prefill_paged_sm90_kernel_mask_0.cu": 80.3,
        "batch_prefill_ragged_sm90_kernel_mask_0.cu": 85.3,
        "batch_prefill_paged_sm90_kernel_mask_1.cu": 85.9,
        "batch_prefill_ragged_sm90_kernel_mask_1.cu": 86.7,
        "batch_prefill_paged_sm90_kernel_mask_2.cu": 88.5,
        "batch_prefill_ragged_sm90_kernel_mask_2.cu": 88.6,
        "batch_prefill_paged_sm90_kernel_mask_3.cu": 90.9,
        "batch_prefill_ragged_sm90_kernel_mask_3.cu": 92.7,
        "batch_prefill_sm90.cu": 65.1,
        "batch_prefill_sm90_jit_binding.cu": 57.9,
    },
    "fa2": {
        "batch_prefill_paged_kernel_mask_0.cu": 16.7,
        "batch_prefill_ragged_kernel_mask_0.cu": 18.4,
        "batch_prefill_paged_kernel_mask_1.cu": 19.5,
        "batch_prefill_ragged_kernel_mask_1.cu": 23.3,
        "batch_prefill_paged_kernel_mask_2.cu": 19.9,
        "batch_prefill_ragged_kernel_mask_2.cu": 19.1,
        "batch_prefill_paged_kernel_mask_3.cu": 20.2,
        "batch_prefill_ragged_kernel_mask_3.cu": 19.1,
        "batch_prefill.cu": 11.9,
        "batch_prefill_jit_binding.cu": 21.1,
    },
    "rope": {
        "rope.cu": 59.1,
        "flashinfer_rope_binding.cu": 17.4,
    },
    "decode": {
        "batch_decode_kernel.cu": 12.5,
        "batch_decode.cu": 10.7,
        "batch_decode_jit_binding.cu": 13.0,
    },
    "page": {
        "page.cu": 24.1,
        "flashinfer_page_binding.cu": 10.1,
    },
    "cascade": {
        "cascade.cu": 9.1,
        "flashinfer_cascade_binding.cu": 5.4,
    },
    "quantization": {
        "quantization.cu": 19.5,
        "flashinfer_quantization_binding.cu": 4.5,
    },
}
