#include "tests/bench/data.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/fill.h"
#include "model/channels.h"

int bench_preset(bench_shape_t *out, const char *name)
{
    static const struct {
        const char *name;
        bench_shape_t shape;
    } known[] = {{"405b", {16384, 53248, 128, 8, 128, 2048}},
                 {"70b", {8192, 28672, 64, 8, 128, 2048}},
                 {"7b", {4096, 11008, 32, 32, 128, 2048}},
                 {"135m", {576, 1536, 9, 3, 64, 1024}}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(known[i].name, name) == 0) {
            *out = known[i].shape;
            return 1;
        }
    return 0;
}

static int read_shape(bench_shape_t *s, const char *key, const char *value)
{
    const struct {
        const char *key;
        int64_t *number;
    } sizes[] = {{"hidden", &s->hidden},     {"intermediate", &s->intermediate},
                 {"heads", &s->heads},       {"kv_heads", &s->kv_heads},
                 {"head_dim", &s->head_dim}, {"length", &s->length}};
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++)
        if (strcmp(sizes[k].key, key) == 0) {
            *sizes[k].number = strtol(value, NULL, 10);
            return 1;
        }
    return strcmp(key, "preset") == 0 && bench_preset(s, value);
}

bench_common_t bench_common(const char *preset)
{
    bench_common_t c = {.device = "cuda:0", .compute = "bf16"};
    bench_preset(&c.shape, preset);
    return c;
}

static int read_key(const bench_key_t *keys, size_t n, const char *key, const char *value)
{
    size_t k = 0;
    while (k < n && strcmp(keys[k].key, key) != 0)
        k++;
    if (k == n)
        return 0;
    if (keys[k].number)
        *keys[k].number = strtol(value, NULL, 10);
    else
        snprintf(keys[k].text, keys[k].size, "%s", value);
    return 1;
}

void bench_read_keys(bench_common_t *common, const bench_key_t *keys, size_t n, int argc,
                     char **argv, void (*usage)(void))
{
    const bench_key_t shared[] = {BENCH_TEXT(common, device), BENCH_TEXT(common, compute)};
    for (int i = 1; i < argc; i++) {
        char *value = strchr(argv[i], '=');
        if (!value)
            usage();
        *value++ = '\0';
        if (!read_shape(&common->shape, argv[i], value) && !read_key(shared, 2, argv[i], value) &&
            !read_key(keys, n, argv[i], value))
            usage();
    }
}

qy_arch_t bench_arch(const bench_shape_t *c)
{
    qy_arch_t a = {.family = QY_FAMILY_LLAMA,
                   .n_blocks = 1,
                   .hidden = c->hidden,
                   .intermediate = c->intermediate,
                   .n_heads = c->heads,
                   .n_kv_heads = c->kv_heads,
                   .head_dim = c->head_dim,
                   .max_positions = c->length,
                   .norm_kind = QY_NORM_RMS,
                   .norm_eps = 1e-5f,
                   .act_kind = QY_ACT_SILU_GATE,
                   .rope_kind = QY_ROPE_DEFAULT,
                   .rope_theta = 10000.0,
                   .rope_factor = 1.0};
    const int64_t q = c->heads * c->head_dim, kv = c->kv_heads * c->head_dim;
    const int64_t shape[QY_N_LINEARS][2] = {{q, c->hidden},
                                            {kv, c->hidden},
                                            {kv, c->hidden},
                                            {c->hidden, q},
                                            {c->intermediate, c->hidden},
                                            {c->intermediate, c->hidden},
                                            {c->hidden, c->intermediate}};
    for (int i = 0; i < QY_N_LINEARS; i++)
        a.linear[i] = (qy_linear_desc_t){.present = true, .out = shape[i][0], .in = shape[i][1]};
    a.norm[QY_NORM_ATTENTION] = a.norm[QY_NORM_MLP] =
        (qy_norm_desc_t){.present = true, .size = c->hidden};
    return a;
}

static uint64_t splitmix64(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

void bench_uniform(float *x, int64_t n, uint64_t stream, float size)
{
#pragma omp parallel for if (n > 65536)
    for (int64_t i = 0; i < n; i++) {
        uint64_t u = splitmix64((stream << 40) + (uint64_t)i) >> 40;
        x[i] = size * ((float)u / 8388608.0f - 1.0f);
    }
}

void bench_weights_make(qy_block_weights_t *w, const qy_arch_t *a, float outlier)
{
    *w = (qy_block_weights_t){0};
    for (int i = 0; i < QY_N_LINEARS + QY_N_NORMS; i++) {
        const int linear = i < QY_N_LINEARS, k = linear ? i : i - QY_N_LINEARS;
        if (linear ? !a->linear[k].present : !a->norm[k].present)
            continue;
        int64_t n = linear ? a->linear[k].out * a->linear[k].in : a->norm[k].size;
        float *values = malloc((size_t)n * sizeof *values);
        if (!values)
            exit(1);
        if (linear) {
            bench_uniform(values, n, (uint64_t)(BENCH_STREAM_WEIGHT + k), BENCH_WEIGHT_SIZE);
            w->linear[k] = qy_tensor_2d(values, QY_F32, a->linear[k].out, a->linear[k].in);
        } else {
            for (int64_t j = 0; j < n; j++)
                values[j] = j % 128 == 5 ? outlier : 1.0f;
            w->norm[k] = qy_tensor_1d(values, QY_F32, n);
        }
    }
}

void bench_weights_drop(qy_block_weights_t *w)
{
    for (int i = 0; i < QY_N_LINEARS; i++)
        free(w->linear[i].data);
    for (int i = 0; i < QY_N_NORMS; i++)
        free(w->norm[i].data);
}

qy_plan_t *bench_plan(const qy_arch_t *arch, const bench_shape_t *shape, int64_t samples, int bits,
                      int64_t group)
{
    qy_plan_t *p = calloc(1, sizeof *p);
    if (!p)
        exit(1);
    p->arch = *arch;
    p->group = group;
    p->spec.quantize.weights.bits = bits;
    p->spec.calibration.samples = p->n_samples = samples;
    p->spec.calibration.sequence_length = shape->length;
    p->n_segments = p->n_workers = p->segment_start[1] = 1;
    return p;
}

void bench_check(qy_status_t status, const qy_error_t *err)
{
    if (status == QY_OK)
        return;
    fprintf(stderr, "bench: %s\n", err->text);
    exit(1);
}

void bench_put(const qy_device_t *dev, const qy_tensor_t *t, uint64_t stream, float size)
{
    qy_error_t err = {0};
    int64_t n = qy_tensor_count(t);
    float *host = malloc((size_t)n * sizeof *host);
    if (!host)
        bench_need(qy_fail(&err, QY_ERR_MEMORY, "out of host memory"), err);
    bench_uniform(host, n, stream, size);
    qy_tensor_t to = *t, f32 = qy_tensor_1d(t->data, QY_F32, n);
    if (t->dtype != QY_F32)
        bench_need(qy_device_alloc(dev, &f32.data, qy_tensor_bytes(&f32), &err), err);
    bench_need(qy_device_upload(dev, f32.data, host, qy_tensor_bytes(&f32), &err), err);
    if (t->dtype != QY_F32)
        bench_need(qy_convert(dev, &to, &f32, &err), err);
    bench_need(qy_device_wait(dev, &err), err);
    if (t->dtype != QY_F32)
        qy_device_free(dev, &f32.data);
    free(host);
}

void bench_put_weights(const qy_device_t *dev, const qy_tensor_t *t, int64_t i)
{
    bench_put(dev, t, (uint64_t)(BENCH_STREAM_WEIGHT + i), BENCH_WEIGHT_SIZE);
}

void bench_put_inputs(const qy_device_t *dev, const qy_tensor_t *t, int64_t i)
{
    bench_put(dev, t, (uint64_t)(BENCH_STREAM_INPUT + i), BENCH_INPUT_SIZE);
}

qy_tensor_t bench_make(const qy_device_t *dev, qy_dtype_t dtype, int n_dims, const int64_t *shape,
                       uint64_t stream, float size)
{
    qy_error_t err = {0};
    qy_tensor_t t = qy_tensor_view(NULL, dtype, n_dims, shape);
    bench_need(qy_device_alloc(dev, &t.data, qy_tensor_bytes(&t), &err), err);
    if (size > 0.0f)
        bench_put(dev, &t, stream, size);
    else
        bench_need(qy_fill(dev, &t, 0.0f, &err), err);
    return t;
}

void bench_free(const qy_device_t *dev, qy_tensor_t *t)
{
    qy_device_free(dev, &t->data);
}

float *bench_get(const qy_device_t *dev, const qy_tensor_t *t)
{
    qy_error_t err = {0};
    int64_t n = qy_tensor_count(t);
    float *host = malloc((size_t)n * sizeof *host);
    qy_tensor_t f32 = *t;
    if (!host)
        bench_need(qy_fail(&err, QY_ERR_MEMORY, "out of host memory"), err);
    if (t->dtype != QY_F32) {
        f32 = qy_tensor_1d(NULL, QY_F32, n);
        bench_need(qy_device_alloc(dev, &f32.data, qy_tensor_bytes(&f32), &err), err);
        bench_need(qy_convert(dev, &f32, t, &err), err);
    }
    bench_need(qy_device_download(dev, host, f32.data, qy_tensor_bytes(&f32), &err), err);
    if (t->dtype != QY_F32)
        qy_device_free(dev, &f32.data);
    return host;
}

void bench_channels(int32_t **offsets_out, int32_t **items_out, int64_t c)
{
    int32_t n = 0;
    int32_t *offsets = *offsets_out = malloc((size_t)(c + 1) * sizeof *offsets);
    int32_t *items = *items_out = malloc((size_t)(QY_MAP_ITEMS * c) * sizeof *items);
    if (!offsets || !items)
        exit(1);
    for (int64_t k = 0; k < QY_MAP_ITEMS * c; k++)
        items[k] = -1;
    offsets[0] = 0;
    for (int64_t j = 0; j < c; j++) {
        int64_t at = j / 64 * 64 + 63 < c ? j % 64 : 63;
        items[n++] = (int32_t)(at == 1 ? j + 4 : j);
        if (at == 0)
            items[n++] = (int32_t)j + 1;
        offsets[j + 1] = n;
    }
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double bench_median(double *samples, int n)
{
    qsort(samples, (size_t)n, sizeof *samples, ascending);
    return n % 2 ? samples[n / 2] : 0.5 * (samples[n / 2 - 1] + samples[n / 2]);
}
