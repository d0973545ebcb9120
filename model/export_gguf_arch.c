/* The architecture as the keys of a GGUF file. */
#include <stdio.h>

#include "model/export_gguf.h"

enum { KEY_BYTES = 96 };

const char *qy_gguf_arch_name(const qy_arch_t *arch)
{
    switch (arch->family) {
    case QY_FAMILY_LLAMA:
    case QY_FAMILY_MISTRAL:
        return "llama";
    case QY_FAMILY_QWEN2:
        return "qwen2";
    case QY_FAMILY_QWEN3:
        return "qwen3";
    case QY_FAMILY_OPT:
    case QY_N_FAMILIES:
        break;
    }
    return NULL;
}

static const char *full(char key[KEY_BYTES], const qy_arch_t *arch, const char *name)
{
    snprintf(key, KEY_BYTES, "%s.%s", qy_gguf_arch_name(arch), name);
    return key;
}

void qy_gguf_put_arch(qy_gguf_writer_t *w, const qy_arch_t *arch)
{
    const struct {
        const char *name;
        int64_t value;
    } sizes[] = {
        {"vocab_size", arch->vocab},
        {"context_length", arch->max_positions},
        {"embedding_length", arch->hidden},
        {"block_count", arch->n_blocks},
        {"feed_forward_length", arch->intermediate},
        {"attention.head_count", arch->n_heads},
        {"attention.head_count_kv", arch->n_kv_heads},
        {"attention.key_length", arch->head_dim},
        {"attention.value_length", arch->head_dim},
        {"rope.dimension_count", arch->head_dim},
    };
    char key[KEY_BYTES];
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        qy_gguf_put_u32(w, full(key, arch, sizes[i].name), sizes[i].value);
    qy_gguf_put_f32(w, full(key, arch, "rope.freq_base"), arch->rope_theta);
    qy_gguf_put_f32(w, full(key, arch, "attention.layer_norm_rms_epsilon"), (double)arch->norm_eps);
    if (arch->rope_kind == QY_ROPE_LINEAR) {
        qy_gguf_put_string(w, full(key, arch, "rope.scaling.type"), "linear");
        qy_gguf_put_f32(w, full(key, arch, "rope.scaling.factor"), arch->rope_factor);
    }
}
