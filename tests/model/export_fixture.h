/*
 * What tests of exporters share: a temporary folder, a run whose blocks are made up, and readers
 * that fail the test where something is not as it should be.
 */
#ifndef QY_TESTS_MODEL_EXPORT_FIXTURE_H
#define QY_TESTS_MODEL_EXPORT_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "model/export.h"
#include "model/json.h"
#include "tests/model/random_block.h"

#define LLAMA TEST_DATA "/models/tiny-llama-kjv"
#define OPT   TEST_DATA "/models/tiny-opt-kjv"

static char dir[] = "/tmp/quarry-export-XXXXXX";
static qy_error_t err;

#define OK(call) assert_ok(call, #call, __LINE__)

static inline void assert_ok(qy_status_t status, const char *call, int line)
{
    if (status != QY_OK)
        fail_msg("line %d: %s: %s", line, call, err.text);
}

static inline void assert_failed(qy_status_t status, qy_status_t wanted, const char *text)
{
    assert_int_equal(status, wanted);
    if (!strstr(err.text, text))
        fail_msg("\"%s\" is not in \"%s\"", text, err.text);
}

/* --- a run's blocks, made up --- */

typedef struct {
    const qy_arch_t *arch;
    qy_quant_form_t form;
    int64_t fails_at;                   /* block that cannot be read; −1: none */
    void (*change)(qy_qblock_t *block); /* what the blocks have instead; may be NULL */
} made_up_t;

static inline qy_status_t read_made_up(void *context, int64_t block, qy_qblock_t *out,
                                       qy_error_t *e)
{
    made_up_t *m = context;
    if (block == m->fails_at)
        return qy_fail(e, QY_ERR_IO, "block %lld is lost", (long long)block);
    QY_TRY(random_block(out, m->arch, &m->form, (uint64_t)block, e));
    if (m->change)
        m->change(out);
    return QY_OK;
}

typedef struct {
    qy_model_t *model;
    made_up_t blocks;
    qy_export_t job;
} fixture_t;

static inline void open_fixture(fixture_t *f, const char *model, int bits, int64_t group,
                                bool symmetric)
{
    *f = (fixture_t){0};
    OK(qy_model_open(&f->model, model, &err));
    f->blocks = (made_up_t){&f->model->arch,
                            {.bits = bits, .group = group, .symmetric = symmetric},
                            -1,
                            NULL};
    f->job = (qy_export_t){.model = f->model,
                           .form = f->blocks.form,
                           .source = {&f->blocks, read_made_up},
                           .version = "1.2.3"};
}

static inline void path_of(char out[QY_PATH_MAX], const char *name)
{
    OK(qy_path(out, &err, "%s/%s", dir, name));
}

static inline void export_as(fixture_t *f, const char *format, const char *name)
{
    char path[QY_PATH_MAX];
    path_of(path, name);
    f->job.overwrite = true;
    OK(qy_export_run(qy_exporter_find(format), &f->job, path, &err));
}

static inline qy_st_set_t *open_tensors(const char *name)
{
    char path[QY_PATH_MAX];
    qy_st_set_t *set;
    path_of(path, name);
    OK(qy_st_open(&set, path, &err));
    return set;
}

/* The data of one tensor, checked for type and shape (0: no second dimension); the caller frees. */
static inline void *read_tensor(const qy_st_set_t *set, const char *name, const char *dtype,
                                int64_t rows, int64_t cols)
{
    const qy_st_entry_t *e = qy_st_find(set, name);
    if (!e)
        fail_msg("no tensor %s", name);
    assert_string_equal(e->dtype, dtype);
    assert_int_equal(e->n_dims, cols ? 2 : 1);
    assert_int_equal(e->shape[0], rows);
    if (cols)
        assert_int_equal(e->shape[1], cols);
    void *data = malloc(e->bytes);
    OK(qy_st_read(set, e, data, 0, e->bytes, &err));
    return data;
}

static inline void *read_part(const qy_st_set_t *set, const char *layer, const char *suffix,
                              const char *dtype, int64_t rows, int64_t cols)
{
    char name[200];
    snprintf(name, sizeof name, "%s%s", layer, suffix);
    return read_tensor(set, name, dtype, rows, cols);
}

/* --- files beside the tensors --- */

static inline json_t *read_json(const char *folder, const char *name)
{
    char path[QY_PATH_MAX];
    json_t *root;
    OK(qy_path(path, &err, "%s/%s/%s", dir, folder, name));
    OK(qy_json_read(&root, path, 1 << 20, &err));
    return root;
}

static inline char *read_text(const char *folder, const char *name)
{
    char path[QY_PATH_MAX], *text;
    size_t bytes;
    OK(qy_path(path, &err, "%s/%s", folder, name));
    OK(qy_file_read(path, 1 << 24, &text, &bytes, &err));
    assert_int_equal(strlen(text), bytes);
    return text;
}

/* A file of an export; the caller frees. */
static inline char *read_output(const char *folder, const char *name)
{
    char path[QY_PATH_MAX];
    path_of(path, folder);
    return read_text(path, name);
}

static inline void put_file(const char *folder, const char *name)
{
    char path[QY_PATH_MAX];
    path_of(path, folder);
    OK(qy_make_dirs(path, &err));
    OK(qy_path(path, &err, "%s/%s/%s", dir, folder, name));
    OK(qy_file_write(path, "x", 1, &err));
}

static inline int has_file(const char *folder, const char *name)
{
    char path[QY_PATH_MAX];
    OK(qy_path(path, &err, "%s/%s/%s", dir, folder, name));
    return qy_file_exists(path);
}

/* --- a checkpoint in other types --- */

typedef struct {
    char name[64];
    qy_st_spec_t spec;
} brain_tensor_t;

enum { BRAIN_TENSORS = 13 };

/* A Llama of one block of 32 × 32 in bf16, its final norm in f32, with an old checkpoint's buffer.
 */
static inline int list_brain(brain_tensor_t *t)
{
    static const char *const linears[] = {
        "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
        "mlp.gate_proj",    "mlp.up_proj",      "mlp.down_proj"};
    int n = 0;
    for (int i = 0; i < 7; i++, n++) {
        snprintf(t[n].name, sizeof t[n].name, "model.layers.0.%s.weight", linears[i]);
        t[n].spec = (qy_st_spec_t){t[n].name, "BF16", 2, {32, 32}};
    }
    static const struct {
        const char *name, *dtype;
        int n_dims;
    } others[] = {{"model.layers.0.input_layernorm.weight", "BF16", 1},
                  {"model.layers.0.post_attention_layernorm.weight", "F32", 1},
                  {"model.layers.0.self_attn.rotary_emb.inv_freq", "F32", 1},
                  {"model.embed_tokens.weight", "BF16", 2},
                  {"lm_head.weight", "BF16", 2},
                  {"model.norm.weight", "F32", 1}};
    for (int i = 0; i < 6; i++, n++) {
        snprintf(t[n].name, sizeof t[n].name, "%s", others[i].name);
        t[n].spec = (qy_st_spec_t){t[n].name, others[i].dtype, others[i].n_dims, {32, 32}};
    }
    return n;
}

/* Writes it to dir/brain: all numbers are `value`. */
static inline void write_brain(float value)
{
    static const char config[] =
        "{\"vocab_size\": 32, \"model_type\": \"llama\", \"architectures\": [\"LlamaForCausalLM\"],"
        " \"torch_dtype\": \"bfloat16\", \"rms_norm_eps\": 1e-05, \"hidden_size\": 32,"
        " \"intermediate_size\": 32, \"num_attention_heads\": 2, \"num_hidden_layers\": 1,"
        " \"hidden_act\": \"silu\", \"max_position_embeddings\": 64, \"tie_word_embeddings\": "
        "false,"
        " \"rope_theta\": 10000.1, \"note\": \"größer\"}";
    char path[QY_PATH_MAX], file[QY_PATH_MAX];
    path_of(path, "brain");
    OK(qy_make_dirs(path, &err));
    OK(qy_path(file, &err, "%s/config.json", path));
    OK(qy_file_write(file, config, strlen(config), &err));
    brain_tensor_t t[BRAIN_TENSORS];
    qy_st_spec_t specs[BRAIN_TENSORS];
    int n = list_brain(t);
    for (int i = 0; i < n; i++)
        specs[i] = t[i].spec;
    qy_st_writer_t *writer;
    OK(qy_st_writer_create(&writer, path, specs, n, UINT64_MAX, &err));
    for (int i = 0; i < n; i++) {
        bool wide = strcmp(t[i].spec.dtype, "F32") == 0;
        int64_t count = t[i].spec.n_dims == 2 ? 32 * 32 : 32;
        float full[32 * 32];
        uint16_t half[32 * 32];
        for (int64_t k = 0; k < count; k++) {
            full[k] = value;
            half[k] = qy_f32_to_bf16(value);
        }
        OK(qy_st_writer_put(writer, t[i].name, wide ? (void *)full : (void *)half,
                            (uint64_t)count * (wide ? 4 : 2), &err));
    }
    OK(qy_st_writer_finish(&writer, &err));
}

static inline int make_dir(void **state)
{
    (void)state;
    return mkdtemp(dir) ? 0 : -1;
}

static inline int remove_dir(void **state)
{
    (void)state;
    return qy_remove_tree(dir, &err) == QY_OK ? 0 : -1;
}

#endif
