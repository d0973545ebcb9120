/* A finished block's file, of a small Llama: two heads of 32, MLP 32, 2 bits in groups of 32. */
#include <stdlib.h>
#include <string.h>

#include "model/qmodel.h"
#include "tests/fuzz/fuzz.h"

static const char config[] =
    "{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\",\"hidden_size\":32,"
    "\"intermediate_size\":32,\"num_hidden_layers\":2,\"num_attention_heads\":1,"
    "\"num_key_value_heads\":1,\"head_dim\":32,\"vocab_size\":2048,"
    "\"max_position_embeddings\":64,\"rms_norm_eps\":1e-5,\"tie_word_embeddings\":true,"
    "\"hidden_act\":\"silu\"}";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static qy_arch_t arch;
    const qy_quant_form_t form = {.bits = 2, .group = 32};
    qy_h5_t *file = NULL;
    qy_qblock_t block;
    qy_error_t err;
    char text[65];
    int64_t version;
    if (arch.n_blocks == 0) {
        fuzz_file("config.json", (const uint8_t *)config, strlen(config));
        if (qy_arch_read(&arch, fuzz_folder(), &err) != QY_OK)
            abort();
    }
    if (qy_h5_open(&file, fuzz_file("000.h5", data, size), &err) != QY_OK)
        return 0;
    (void)qy_h5_get_i64(file, "schema_version", &version, &err);
    (void)qy_h5_get_string(file, "plan_hash", text, sizeof text, &err);
    if (qy_qblock_read(&block, &arch, &form, file, "", &err) == QY_OK)
        qy_qblock_free(&block);
    qy_h5_close(&file);
    return 0;
}
