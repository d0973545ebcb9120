/* Tensors of a GGUF file under the names, shapes and row orders of Hugging Face checkpoints. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/gguf_inner.h"
#include "model/gguf_model.h"

enum { READ_BYTES = 4 << 20, NAME_BYTES = 160 };

const char *const qy_gguf_linears[QY_N_LINEARS] = {"attn_q",   "attn_k", "attn_v",  "attn_output",
                                                   "ffn_gate", "ffn_up", "ffn_down"};
const char *const qy_gguf_norms[QY_N_NORMS] = {"attn_norm", "ffn_norm", "attn_q_norm",
                                               "attn_k_norm"};

/* --- names --- */

/* "attn_q" + ".weight" or ".bias" of name: that suffix, or NULL. */
static const char *suffix_after(const char *name, const char *part)
{
    size_t n = strlen(part);
    if (strncmp(name, part, n) != 0)
        return NULL;
    return strcmp(name + n, ".weight") == 0 || strcmp(name + n, ".bias") == 0 ? name + n : NULL;
}

/* A name inside a block, by the family's names; false where the family has no such layer. */
static bool name_in_block(char out[NAME_BYTES], const qy_family_row_t *row, int block,
                          const char *name)
{
    const char *suffix;
    for (int i = 0; i < QY_N_LINEARS; i++)
        if (row->linear[i] && (suffix = suffix_after(name, qy_gguf_linears[i])) != NULL) {
            snprintf(out, NAME_BYTES, "%s%d.%s%s", row->block_prefix, block, row->linear[i],
                     suffix);
            return true;
        }
    for (int i = 0; i < QY_N_NORMS; i++)
        if (row->norm[i] && (suffix = suffix_after(name, qy_gguf_norms[i])) != NULL) {
            snprintf(out, NAME_BYTES, "%s%d.%s%s", row->block_prefix, block, row->norm[i], suffix);
            return true;
        }
    return false;
}

static bool name_outside(char out[NAME_BYTES], const qy_family_row_t *row, const char *name)
{
    const char *suffix = suffix_after(name, "output_norm");
    if (strcmp(name, "token_embd.weight") == 0)
        snprintf(out, NAME_BYTES, "%s", row->embedding);
    else if (strcmp(name, "output.weight") == 0)
        snprintf(out, NAME_BYTES, "%s", row->head);
    else if (suffix)
        snprintf(out, NAME_BYTES, "%s%s", row->final_norm, suffix);
    else
        return false;
    return true;
}

static bool find_name(char out[NAME_BYTES], const qy_family_row_t *row, const char *name)
{
    char digits[8], block_name[QY_GGUF_NAME_MAX];
    if (strncmp(name, "blk.", 4) != 0)
        return name_outside(out, row, name);
    if (sscanf(name + 4, "%7[0-9].%63s", digits, block_name) != 2)
        return false;
    bool padded = digits[0] == '0' && digits[1] != '\0';
    return !padded && name_in_block(out, row, atoi(digits), block_name);
}

/* --- the list --- */

static const char *type_as_seen(const qy_gguf_block_t *block)
{
    return block->elements == 1 ? block->name : "F32";
}

qy_status_t qy_gguf_entries(qy_st_list_t *list, const qy_gguf_t *gguf, qy_error_t *err)
{
    const qy_family_row_t *row;
    QY_TRY(qy_gguf_family(gguf, &row, err));
    for (int64_t i = 0; i < gguf->header.n_tensors; i++) {
        const qy_gguf_tensor_t *t = &gguf->header.tensors[i];
        qy_st_entry_t entry = {.n_dims = t->n_dims, .stored = i, .offset = t->offset};
        char name[NAME_BYTES];
        if (strcmp(t->name, QY_GGUF_ROPE_FREQS) == 0)
            continue;
        if (t->n_dims > 2 || !find_name(name, row, t->name))
            return qy_fail(err, QY_ERR_UNSUPPORTED, "%s: tensor %s has no place in a %s model",
                           gguf->path, t->name, row->model_type);
        uint64_t bytes = (uint64_t)qy_st_dtype_bits(type_as_seen(t->block)) / 8;
        for (int d = 0; d < t->n_dims; d++) {
            entry.shape[d] = t->dims[t->n_dims - 1 - d];
            bytes *= (uint64_t)entry.shape[d];
        }
        entry.bytes = bytes;
        snprintf(entry.dtype, sizeof entry.dtype, "%s", type_as_seen(t->block));
        QY_TRY(qy_st_list_add(list, &entry, name, gguf->path, err));
    }
    return QY_OK;
}

/* --- reading --- */

/* How one tensor is read: row r is row `stored_row` of the file. */
typedef struct {
    const qy_gguf_tensor_t *tensor;
    int64_t rows, cols;
    int64_t pairs_of;     /* rows of a head whose halves are interleaved; 1: as they are */
    size_t file_row, row; /* bytes in the file, bytes as seen */
} layout_t;

static bool is_interleaved(const qy_family_row_t *row, const char *name)
{
    int digits;
    char part[QY_GGUF_NAME_MAX];
    return row->family == QY_FAMILY_LLAMA && sscanf(name, "blk.%d.%63s", &digits, part) == 2 &&
           (suffix_after(part, "attn_q") || suffix_after(part, "attn_k"));
}

static qy_status_t find_layout(layout_t *out, const qy_gguf_t *g, const qy_st_entry_t *entry,
                               qy_error_t *err)
{
    const qy_family_row_t *row;
    const qy_gguf_tensor_t *t = &g->header.tensors[entry->stored];
    layout_t l = {.tensor = t, .rows = 1, .cols = t->dims[0], .pairs_of = 1};
    QY_TRY(qy_gguf_family(g, &row, err));
    if (is_interleaved(row, t->name))
        QY_TRY(qy_gguf_head_dim(g, row, &l.pairs_of, err));
    if (t->n_dims == 2)
        l.rows = t->dims[1];
    else if (l.pairs_of > 1) {
        l.rows = t->dims[0];
        l.cols = 1;
    }
    if (l.cols % t->block->elements != 0 || l.rows % l.pairs_of != 0)
        return qy_fail(err, QY_ERR_FORMAT, "%s: tensor %s: %lld rows of %s are no heads of %lld",
                       g->path, t->name, (long long)l.rows, t->block->name, (long long)l.pairs_of);
    l.file_row = (size_t)(l.cols / t->block->elements) * (size_t)t->block->bytes;
    l.row = (size_t)l.cols * (size_t)qy_st_dtype_bits(entry->dtype) / 8;
    *out = l;
    return QY_OK;
}

/* llama.cpp turns neighbours where Hugging Face turns halves: new[2 i + j] = old[j d/2 + i]. */
static int64_t stored_row(const layout_t *l, int64_t r)
{
    int64_t d = l->pairs_of, inside = r % d;
    return d == 1 ? r : r - inside + 2 * (inside % (d / 2)) + inside / (d / 2);
}

/* Rows [first, first + n) out of raw, which holds them as stored; the part of them that lies in
 * [begin, begin + bytes) goes to dst. line is room for a row. */
static void place_rows(const layout_t *l, const unsigned char *raw, int64_t first, int64_t n,
                       float *line, char *dst, uint64_t begin, uint64_t bytes)
{
    for (int64_t r = first; r < first + n; r++) {
        uint64_t at = (uint64_t)r * l->row, end = at + l->row;
        uint64_t from = at > begin ? at : begin, to = end < begin + bytes ? end : begin + bytes;
        if (from >= to)
            continue;
        const void *src = raw + (size_t)(stored_row(l, r) - first) * l->file_row;
        if (l->tensor->block->elements > 1) {
            qy_gguf_decode(l->tensor->block, line, src, l->cols);
            src = line;
        }
        memcpy(dst + (from - begin), (const char *)src + (from - at), (size_t)(to - from));
    }
}

qy_status_t qy_gguf_read(const qy_gguf_t *gguf, const qy_st_entry_t *entry, void *dst,
                         uint64_t begin, uint64_t bytes, qy_error_t *err)
{
    layout_t l = {0};
    if (bytes == 0)
        return QY_OK;
    QY_TRY(find_layout(&l, gguf, entry, err));
    int64_t unit = l.pairs_of, at_once = unit * (1 + READ_BYTES / (unit * (int64_t)l.file_row));
    int64_t first = (int64_t)(begin / l.row) / unit * unit;
    int64_t end = (int64_t)((begin + bytes - 1) / l.row) + 1;
    unsigned char *raw = malloc((size_t)(at_once < l.rows ? at_once : l.rows) * l.file_row);
    float *line = malloc((size_t)l.cols * sizeof *line);
    qy_status_t status = raw && line ? QY_OK
                                     : qy_fail(err, QY_ERR_MEMORY, "%s: no memory to read %s",
                                               gguf->path, l.tensor->name);
    for (int64_t r = first; r < end && status == QY_OK; r += at_once) {
        int64_t n = l.rows - r < at_once ? l.rows - r : at_once;
        status = qy_pread(gguf->fd, gguf->path, raw, (size_t)n * l.file_row,
                          l.tensor->offset + (uint64_t)r * l.file_row, err);
        if (status == QY_OK)
            place_rows(&l, raw, r, n, line, dst, begin, bytes);
    }
    free(line);
    free(raw);
    return status;
}
