#include "model/exported.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "model/json.h"
#include "model/target.h"

enum { FILE_MAX = 1 << 30, BITS_MIN = 2 };

void qy_exported_free(qy_exported_t *e)
{
    for (int64_t b = 0; b < e->n_blocks; b++)
        free(e->blocks[b].storage);
    free(e->blocks);
    *e = (qy_exported_t){0};
}

/* Memory for plans of all sites that a block may have them at; they change nothing yet. */
static qy_status_t create_block(qy_qblock_t *q, const qy_arch_t *arch, const qy_quant_form_t *form,
                                qy_error_t *err)
{
    int64_t n = 0, at = 0;
    for (int i = 0; i < QY_N_SITES; i++)
        if (form->map_sites & 1u << i)
            n += (1 + QY_MAP_ITEMS) * qy_site_channels(arch, (qy_site_t)i) + 1;
    *q = (qy_qblock_t){.form = *form, .storage = calloc((size_t)n + 1, sizeof(int32_t))};
    if (!q->storage)
        return qy_fail(err, QY_ERR_MEMORY, "channel maps: no memory");
    for (int i = 0; i < QY_N_SITES; i++) {
        int64_t channels = qy_site_channels(arch, (qy_site_t)i), items = QY_MAP_ITEMS * channels;
        int32_t *numbers = (int32_t *)q->storage + at;
        if (!(form->map_sites & 1u << i))
            continue;
        q->map_offsets[i] = qy_tensor_1d(numbers, QY_I32, channels + 1);
        q->map_items[i] = qy_tensor_1d(numbers + channels + 1, QY_I32, items);
        qy_channels_identity(numbers, numbers + channels + 1, channels);
        at += channels + 1 + items;
    }
    return QY_OK;
}

static int site_of(const char *name)
{
    int i = 0;
    while (i < QY_N_SITES && (!name || strcmp(name, qy_site_name((qy_site_t)i)) != 0))
        i++;
    return i;
}

/* Whole numbers of a list into at most `most` places; *n: how many. */
static qy_status_t get_numbers(const json_t *map, const char *where, const char *key, int32_t *to,
                               int64_t most, int64_t *n, qy_error_t *err)
{
    const json_t *list = NULL;
    QY_TRY(qy_json_array(map, where, key, &list, err));
    *n = (int64_t)json_array_size(list);
    if (!list || *n > most)
        return qy_fail(err, QY_ERR_SHAPE, "%s: a channel map has %lld %s, %lld fit", where,
                       (long long)*n, key, (long long)most);
    for (int64_t i = 0; i < *n; i++) {
        const json_t *number = json_array_get(list, (size_t)i);
        json_int_t value = json_integer_value(number);
        if (!json_is_integer(number) || value < 0 || value > INT32_MAX)
            return qy_fail(err, QY_ERR_FORMAT, "%s: a channel map's %s are not all whole numbers",
                           where, key);
        to[i] = (int32_t)value;
    }
    return QY_OK;
}

static qy_status_t read_map(qy_exported_t *e, const json_t *map, const char *where, qy_error_t *err)
{
    int64_t block = -1, n_offsets, n_items;
    const char *name = NULL;
    if (!json_is_object(map))
        return qy_fail(err, QY_ERR_FORMAT, "%s: a channel map is no object", where);
    QY_TRY(qy_json_i64(map, where, "block", &block, err));
    QY_TRY(qy_json_string(map, where, "site", &name, err));
    int site = site_of(name);
    if (block < 0 || block >= e->n_blocks || site == QY_N_SITES ||
        !(e->form.map_sites & 1u << site))
        return qy_fail(err, QY_ERR_FORMAT, "%s: a channel map of block %lld, site %s", where,
                       (long long)block, name ? name : "?");
    qy_qblock_t *q = &e->blocks[block];
    int32_t *offsets = q->map_offsets[site].data, *items = q->map_items[site].data;
    int64_t channels = qy_tensor_count(&q->map_offsets[site]) - 1, places = QY_MAP_ITEMS * channels;
    QY_TRY(get_numbers(map, where, "offsets", offsets, channels + 1, &n_offsets, err));
    QY_TRY(get_numbers(map, where, "items", items, places, &n_items, err));
    if (n_offsets != channels + 1 || n_items != offsets[channels])
        return qy_fail(err, QY_ERR_SHAPE,
                       "%s: block %lld, %s: %lld offsets and %lld items for %lld channels", where,
                       (long long)block, name, (long long)n_offsets, (long long)n_items,
                       (long long)channels);
    for (int64_t i = n_items; i < places; i++)
        items[i] = -1;
    return qy_channels_check(offsets, items, channels, err);
}

static qy_status_t get_bits(const json_t *root, const char *where, const char *key, int *bits,
                            qy_error_t *err)
{
    int64_t found = QY_BITS_NONE;
    QY_TRY(qy_json_i64(root, where, key, &found, err));
    if (found < BITS_MIN || found > QY_BITS_NONE)
        return qy_fail(err, QY_ERR_FORMAT, "%s: %s is %lld", where, key, (long long)found);
    *bits = (int)found;
    return QY_OK;
}

static qy_status_t read_root(qy_exported_t *e, const qy_model_t *model, const json_t *root,
                             const char *where, qy_error_t *err)
{
    const json_t *maps = NULL;
    const char *quantizer = NULL;
    QY_TRY(qy_json_array(root, where, "channel_maps", &maps, err));
    QY_TRY(qy_json_string(root, where, "activation_quantizer", &quantizer, err));
    if (!maps && (!quantizer || strcmp(quantizer, "token") != 0))
        return QY_OK;
    QY_TRY(get_bits(root, where, "bits", &e->form.bits, err));
    QY_TRY(get_bits(root, where, "activation_bits", &e->form.activation_bits, err));
    QY_TRY(get_bits(root, where, "kv_bits", &e->form.kv_bits, err));
    if (maps)
        e->form.map_sites =
            1u << QY_SITE_ATTENTION_IN | 1u << QY_SITE_MLP_IN | 1u << QY_SITE_DOWN_IN;
    e->blocks = calloc((size_t)model->arch.n_blocks, sizeof *e->blocks);
    if (!e->blocks)
        return qy_fail(err, QY_ERR_MEMORY, "%s: no memory for its channel maps", where);
    for (e->n_blocks = 0; e->n_blocks < model->arch.n_blocks; e->n_blocks++)
        QY_TRY(create_block(&e->blocks[e->n_blocks], &model->arch, &e->form, err));
    for (size_t i = 0; i < json_array_size(maps); i++)
        QY_TRY(read_map(e, json_array_get(maps, i), where, err));
    return QY_OK;
}

qy_status_t qy_exported_read(qy_exported_t *out, const qy_model_t *model, qy_error_t *err)
{
    char path[QY_PATH_MAX];
    json_t *root;
    *out = (qy_exported_t){0};
    QY_TRY(qy_path(path, err, "%s/%s", model->dir, qy_target_mark));
    if (!qy_file_exists(path))
        return QY_OK;
    QY_TRY(qy_json_read(&root, path, FILE_MAX, err));
    qy_status_t status = read_root(out, model, root, path, err);
    json_decref(root);
    if (status != QY_OK)
        qy_exported_free(out);
    return status;
}
