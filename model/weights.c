#include "model/weights.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/half.h"
#include "model/checkpoint.h"

enum {
    STORAGE_ALIGN = 64, /* bytes; every tensor of a storage starts on it */
    TENSOR_NAME_MAX = 160,
    WIDEN_AT_ONCE = 2048,
    /* A piece that one thread reads: so many elements, and a multiple of so many rows, so that
     * heads of a GGUF file stay whole. */
    PIECE_ELEMENTS = 1 << 18,
    PIECE_ROWS = 128,
    HEAD_ROWS = 1024, /* of a tied head that is stored as well, compared with the embedding */
    LARGE_PAGE = 2 << 20
};

void qy_model_tensor_name(char out[160], const qy_arch_t *arch, int64_t block, const char *name,
                          const char *suffix)
{
    snprintf(out, TENSOR_NAME_MAX, "%s%lld.%s%s", arch->block_prefix, (long long)block, name,
             suffix);
}

/* --- what the arch asks for --- */

/* One tensor that a model must have, and where its values go. */
typedef struct {
    char name[TENSOR_NAME_MAX];
    int n_dims;
    int64_t shape[2];
    qy_tensor_t *out;
} wanted_t;

enum { BLOCK_WANTED_MAX = 2 * (QY_N_LINEARS + QY_N_NORMS), OUTER_WANTED_MAX = 5 };

static void want(wanted_t *list, int *n, const char *name, int64_t rows, int64_t cols,
                 qy_tensor_t *out)
{
    wanted_t *w = &list[(*n)++];
    snprintf(w->name, sizeof w->name, "%s", name);
    w->n_dims = cols ? 2 : 1;
    w->shape[0] = rows;
    w->shape[1] = cols;
    w->out = out;
}

static int want_block(wanted_t list[BLOCK_WANTED_MAX], const qy_arch_t *arch, int64_t block,
                      qy_block_weights_t *out)
{
    int n = 0;
    char name[TENSOR_NAME_MAX];
    for (int i = 0; i < QY_N_LINEARS; i++) {
        const qy_linear_desc_t *d = &arch->linear[i];
        if (!d->present)
            continue;
        qy_model_tensor_name(name, arch, block, d->name, ".weight");
        want(list, &n, name, d->out, d->in, &out->linear[i]);
        if (!d->bias)
            continue;
        qy_model_tensor_name(name, arch, block, d->name, ".bias");
        want(list, &n, name, d->out, 0, &out->bias[i]);
    }
    for (int i = 0; i < QY_N_NORMS; i++) {
        const qy_norm_desc_t *d = &arch->norm[i];
        if (!d->present)
            continue;
        qy_model_tensor_name(name, arch, block, d->name, ".weight");
        want(list, &n, name, d->size, 0, &out->norm[i]);
        if (!d->bias)
            continue;
        qy_model_tensor_name(name, arch, block, d->name, ".bias");
        want(list, &n, name, d->size, 0, &out->norm_bias[i]);
    }
    return n;
}

static int want_outer(wanted_t list[OUTER_WANTED_MAX], const qy_arch_t *arch,
                      qy_outer_weights_t *out)
{
    int n = 0;
    char name[TENSOR_NAME_MAX];
    want(list, &n, arch->embedding_name, arch->vocab, arch->hidden, &out->embedding);
    if (arch->learned_positions)
        want(list, &n, arch->position_name, arch->max_positions + arch->position_offset,
             arch->hidden, &out->positions);
    if (!arch->tied_head)
        want(list, &n, arch->head_name, arch->vocab, arch->hidden, &out->head);
    snprintf(name, sizeof name, "%s.weight", arch->final_norm.name);
    want(list, &n, name, arch->final_norm.size, 0, &out->final_norm);
    if (arch->final_norm.bias) {
        snprintf(name, sizeof name, "%s.bias", arch->final_norm.name);
        want(list, &n, name, arch->final_norm.size, 0, &out->final_norm_bias);
    }
    return n;
}

/* --- numbers of a tensor --- */

typedef void (*widen_t)(float *dst, const uint16_t *src, int64_t n);

/* n half floats, which lie in the upper half of dst's bytes, become n floats: from the front, so
 * that what is written over has been read. */
static void widen_in_place(float *dst, int64_t n, widen_t widen)
{
    const char *src = (const char *)dst + 2 * n;
    uint16_t taken[WIDEN_AT_ONCE];
    for (int64_t i = 0, count; i < n; i += count) {
        count = n - i < WIDEN_AT_ONCE ? n - i : WIDEN_AT_ONCE;
        memcpy(taken, src + 2 * i, 2 * (size_t)count);
        widen(dst + i, taken, count);
    }
}

/* Elements [at, at + n) of a tensor, into dst. */
static qy_status_t read_piece(const qy_model_t *m, const qy_st_entry_t *e, float *dst, int64_t at,
                              int64_t n, qy_error_t *err)
{
    uint64_t first = (uint64_t)at, count = (uint64_t)n;
    if (strcmp(e->dtype, "F32") == 0)
        return qy_st_read(m->tensors, e, dst, 4 * first, 4 * count, err);
    QY_TRY(qy_st_read(m->tensors, e, (char *)dst + 2 * n, 2 * first, 2 * count, err));
    widen_in_place(dst, n, strcmp(e->dtype, "F16") == 0 ? qy_f16_widen : qy_bf16_widen);
    return QY_OK;
}

/* --- opening --- */

static void shape_text(char out[96], const int64_t *shape, int n_dims)
{
    size_t used = 0;
    for (int i = 0; i < n_dims && used < 90; i++)
        used +=
            (size_t)snprintf(out + used, 96 - used, "%s%lld", i ? " × " : "", (long long)shape[i]);
    if (n_dims == 0)
        snprintf(out, 96, "a single number");
}

static bool is_float(const char *dtype)
{
    return strcmp(dtype, "F16") == 0 || strcmp(dtype, "BF16") == 0 || strcmp(dtype, "F32") == 0;
}

static qy_status_t check_wanted(const qy_model_t *m, const wanted_t *w, qy_error_t *err)
{
    const qy_st_entry_t *e = qy_st_find(m->tensors, w->name);
    if (!e)
        return qy_fail(err, QY_ERR_FORMAT, "%s: no tensor %s, which config.json asks for", m->dir,
                       w->name);
    bool same = e->n_dims == w->n_dims;
    for (int i = 0; same && i < w->n_dims; i++)
        same = e->shape[i] == w->shape[i];
    if (!same) {
        char has[96], wants[96];
        shape_text(has, e->shape, e->n_dims);
        shape_text(wants, w->shape, w->n_dims);
        return qy_fail(err, QY_ERR_SHAPE, "%s: tensor %s is %s, config.json asks for %s", m->dir,
                       w->name, has, wants);
    }
    if (!is_float(e->dtype))
        return qy_fail(err, QY_ERR_UNSUPPORTED, "%s: tensor %s has type %s (known: F16, BF16, F32)",
                       m->dir, w->name, e->dtype);
    return QY_OK;
}

/* The block whose tensor this is, -1 where it is no block's. */
static int64_t block_of(const qy_arch_t *arch, const char *name)
{
    size_t n = strlen(arch->block_prefix);
    if (strncmp(name, arch->block_prefix, n) != 0)
        return -1;
    char *end;
    long long block = strtoll(name + n, &end, 10);
    return *end == '.' && block < arch->n_blocks ? block : -1;
}

/* A weight of a block that the arch does not know would be left out in silence: refuse it. */
static qy_status_t check_strangers(const qy_model_t *m, qy_error_t *err)
{
    for (int64_t i = 0; i < qy_st_count(m->tensors); i++) {
        const char *name = qy_st_at(m->tensors, i)->name;
        int64_t block = block_of(&m->arch, name);
        const char *suffix = strrchr(name, '.');
        if (block < 0 || (strcmp(suffix, ".weight") != 0 && strcmp(suffix, ".bias") != 0))
            continue;
        qy_block_weights_t unused;
        wanted_t list[BLOCK_WANTED_MAX];
        int n = want_block(list, &m->arch, block, &unused), known = 0;
        for (int k = 0; k < n; k++)
            known |= strcmp(name, list[k].name) == 0;
        if (!known)
            return qy_fail(err, QY_ERR_UNSUPPORTED,
                           "%s: tensor %s has no place in a %s block as config.json describes it",
                           m->dir, name, m->arch.model_type);
    }
    return QY_OK;
}

static void drop_prefix(char *name, const char *prefix)
{
    size_t n = strlen(prefix);
    if (strncmp(name, prefix, n) == 0)
        memmove(name, name + n, strlen(name + n) + 1);
}

/* Checkpoints of the bare model, without its head's class, lack "model." before every name. */
static void adjust_names(qy_model_t *m)
{
    static const char prefix[] = "model.";
    qy_arch_t bare = m->arch;
    drop_prefix(bare.block_prefix, prefix);
    drop_prefix(bare.embedding_name, prefix);
    drop_prefix(bare.position_name, prefix);
    drop_prefix(bare.final_norm.name, prefix);
    if (!qy_st_find(m->tensors, m->arch.embedding_name) &&
        qy_st_find(m->tensors, bare.embedding_name))
        m->arch = bare;
}

/* Rows of head and embedding, as many as there are or evenly spread ones; numbers: room for two. */
static qy_status_t compare_rows(const qy_model_t *m, const qy_st_entry_t *head, float *numbers,
                                qy_error_t *err)
{
    const qy_arch_t *arch = &m->arch;
    const qy_st_entry_t *embedding = qy_st_find(m->tensors, arch->embedding_name);
    int64_t n = arch->hidden, step = (arch->vocab + HEAD_ROWS - 1) / HEAD_ROWS;
    for (int64_t row = 0; row < arch->vocab; row += step) {
        QY_TRY(read_piece(m, head, numbers, row * n, n, err));
        QY_TRY(read_piece(m, embedding, numbers + n, row * n, n, err));
        if (memcmp(numbers, numbers + n, (size_t)n * sizeof *numbers) != 0)
            return qy_fail(err, QY_ERR_UNSUPPORTED,
                           "%s: \"tie_word_embeddings\" is true, but %s is not %s (row %lld): "
                           "transformers 5 computes with both, 4 with the embedding alone; set it "
                           "to false, or leave the tensor out",
                           m->dir, arch->head_name, arch->embedding_name, (long long)row);
    }
    return QY_OK;
}

/* A tied head that is stored all the same must be the embedding. */
static qy_status_t check_tied_head(const qy_model_t *m, qy_error_t *err)
{
    const qy_st_entry_t *head = qy_st_find(m->tensors, m->arch.head_name);
    if (!m->arch.tied_head || !head)
        return QY_OK;
    wanted_t wanted;
    int n = 0;
    want(&wanted, &n, m->arch.head_name, m->arch.vocab, m->arch.hidden, NULL);
    QY_TRY(check_wanted(m, &wanted, err));
    float *numbers = malloc(2 * (size_t)m->arch.hidden * sizeof *numbers);
    if (!numbers)
        return qy_fail(err, QY_ERR_MEMORY, "%s: no memory for two rows of its head", m->dir);
    qy_status_t status = compare_rows(m, head, numbers, err);
    free(numbers);
    return status;
}

static qy_status_t check_tensors(qy_model_t *m, qy_error_t *err)
{
    adjust_names(m);
    qy_outer_weights_t outer;
    wanted_t outer_list[OUTER_WANTED_MAX];
    int n = want_outer(outer_list, &m->arch, &outer);
    for (int i = 0; i < n; i++)
        QY_TRY(check_wanted(m, &outer_list[i], err));
    for (int64_t b = 0; b < m->arch.n_blocks; b++) {
        qy_block_weights_t block;
        wanted_t list[BLOCK_WANTED_MAX];
        n = want_block(list, &m->arch, b, &block);
        for (int i = 0; i < n; i++)
            QY_TRY(check_wanted(m, &list[i], err));
    }
    QY_TRY(check_tied_head(m, err));
    return check_strangers(m, err);
}

static qy_status_t refuse_quantized(const char *dir, qy_error_t *err)
{
    char path[QY_PATH_MAX];
    json_t *config;
    QY_TRY(qy_checkpoint_config(&config, path, dir, err));
    const json_t *found = json_object_get(config, "quantization_config");
    bool quantized = found && !json_is_null(found);
    json_decref(config);
    return quantized
               ? qy_fail(err, QY_ERR_UNSUPPORTED,
                         "%s: has a quantization_config: this model is quantized already", path)
               : QY_OK;
}

qy_status_t qy_model_open(qy_model_t **out, const char *dir, qy_error_t *err)
{
    qy_model_t *m = calloc(1, sizeof *m);
    if (!m)
        return qy_fail(err, QY_ERR_MEMORY, "%s: no memory", dir);
    qy_status_t status = QY_OK;
    QY_TRY_GOTO(qy_path(m->dir, err, "%s", dir), close_model);
    QY_TRY_GOTO(qy_arch_read(&m->arch, dir, err), close_model);
    QY_TRY_GOTO(refuse_quantized(dir, err), close_model);
    QY_TRY_GOTO(qy_st_open(&m->tensors, dir, err), close_model);
    QY_TRY_GOTO(check_tensors(m, err), close_model);
    m->threads = 1;
    *out = m;
    return QY_OK;
close_model:
    qy_model_close(&m);
    return status;
}

void qy_model_close(qy_model_t **model)
{
    if (!model || !*model)
        return;
    qy_st_close(&(*model)->tensors);
    free((*model)->final_norm);
    free(*model);
    *model = NULL;
}

qy_status_t qy_model_set_final_norm(qy_model_t *model, const float *weight, const float *bias,
                                    qy_error_t *err)
{
    size_t n = (size_t)model->arch.hidden;
    if (!weight) {
        free(model->final_norm);
        model->final_norm = NULL;
        return QY_OK;
    }
    if (!model->final_norm)
        model->final_norm = calloc(2 * n, sizeof *model->final_norm);
    if (!model->final_norm)
        return qy_fail(err, QY_ERR_MEMORY, "%s: no memory for its last norm", model->dir);
    memcpy(model->final_norm, weight, n * sizeof *weight);
    if (model->arch.final_norm.bias)
        memcpy(model->final_norm + n, bias, n * sizeof *bias);
    return QY_OK;
}

/* --- reading --- */

/* By whole rows, which the tensors of a GGUF file are decoded by. */
static qy_status_t read_tensor(const qy_model_t *m, const wanted_t *w, qy_error_t *err)
{
    const qy_st_entry_t *e = qy_st_find(m->tensors, w->name);
    int64_t n = qy_tensor_count(w->out), row = qy_tensor_cols(w->out);
    int64_t piece = (PIECE_ELEMENTS / row / PIECE_ROWS + 1) * PIECE_ROWS * row;
    int64_t n_pieces = (n + piece - 1) / piece;
    qy_status_t status = QY_OK;
#pragma omp parallel for num_threads(m->threads) schedule(dynamic) if (n_pieces > 1)
    for (int64_t i = 0; i < n_pieces; i++) {
        int64_t at = i * piece, count = n - at < piece ? n - at : piece;
        qy_error_t failed;
        qy_status_t one = read_piece(m, e, (float *)w->out->data + at, at, count, &failed);
        if (one != QY_OK) {
#pragma omp critical(qy_weights)
            {
                status = one;
                if (err)
                    *err = failed;
            }
        }
    }
    return status;
}

/* Room for weights, in large pages where it is much: a block of a large model is a million small
 * ones, each of them a fault. */
static void *take_storage(size_t bytes)
{
    if (bytes < LARGE_PAGE)
        return aligned_alloc(STORAGE_ALIGN, bytes);
    size_t whole = (bytes + LARGE_PAGE - 1) / LARGE_PAGE * LARGE_PAGE;
    void *memory = aligned_alloc(LARGE_PAGE, whole);
    if (memory)
        (void)madvise(memory, whole, MADV_HUGEPAGE);
    return memory;
}

/* One allocation for all that is wanted, and the values in it. *storage is the caller's to free. */
static qy_status_t read_wanted(void **storage, const qy_model_t *m, const wanted_t *list, int n,
                               qy_error_t *err)
{
    size_t total = 0;
    for (int i = 0; i < n; i++) {
        *list[i].out = qy_tensor_view(NULL, QY_F32, list[i].n_dims, list[i].shape);
        total += (qy_tensor_bytes(list[i].out) + STORAGE_ALIGN - 1) / STORAGE_ALIGN * STORAGE_ALIGN;
    }
    char *base = take_storage(total);
    if (!base)
        return qy_fail(err, QY_ERR_MEMORY, "%s: no memory for %zu bytes of weights", m->dir, total);
    size_t used = 0;
    for (int i = 0; i < n; i++) {
        list[i].out->data = base + used;
        used += (qy_tensor_bytes(list[i].out) + STORAGE_ALIGN - 1) / STORAGE_ALIGN * STORAGE_ALIGN;
        qy_status_t status = read_tensor(m, &list[i], err);
        if (status != QY_OK) {
            free(base);
            return status;
        }
    }
    *storage = base;
    return QY_OK;
}

qy_status_t qy_block_weights_read(qy_block_weights_t *out, const qy_model_t *model, int64_t block,
                                  qy_error_t *err)
{
    qy_block_weights_t made = {0};
    wanted_t list[BLOCK_WANTED_MAX];
    if (block < 0 || block >= model->arch.n_blocks)
        return qy_fail(err, QY_ERR_ARG, "%s: block %lld of %lld wanted", model->dir,
                       (long long)block, (long long)model->arch.n_blocks);
    int n = want_block(list, &model->arch, block, &made);
    QY_TRY(read_wanted(&made.storage, model, list, n, err));
    *out = made;
    return QY_OK;
}

void qy_block_weights_free(qy_block_weights_t *weights)
{
    free(weights->storage);
    *weights = (qy_block_weights_t){0};
}

qy_status_t qy_outer_weights_read(qy_outer_weights_t *out, const qy_model_t *model, qy_error_t *err)
{
    qy_outer_weights_t made = {0};
    wanted_t list[OUTER_WANTED_MAX];
    int n = want_outer(list, &model->arch, &made);
    QY_TRY(read_wanted(&made.storage, model, list, n, err));
    if (model->arch.tied_head)
        made.head = made.embedding;
    made.original_norm = made.final_norm;
    made.original_norm_bias = made.final_norm_bias;
    if (model->final_norm) {
        made.final_norm.data = model->final_norm;
        if (made.final_norm_bias.data)
            made.final_norm_bias.data = model->final_norm + model->arch.hidden;
    }
    *out = made;
    return QY_OK;
}

void qy_outer_weights_free(qy_outer_weights_t *weights)
{
    free(weights->storage);
    *weights = (qy_outer_weights_t){0};
}
