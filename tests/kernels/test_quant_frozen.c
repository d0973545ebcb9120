/* Frozen codes and back: all bit widths, groups that end inside a word of codes, clusters of
 * columns, EfficientQAT's packed words. */
#include "base/half.h"
#include "tests/kernels/quant_fixture.h"

/* Bit k of a stream, so code i by the definition. */
static unsigned code_at(const double *words, int64_t i, int bits)
{
    unsigned code = 0;
    for (int k = 0; k < bits; k++) {
        int64_t bit = i * bits + k;
        code |= ((uint32_t)words[bit / 32] >> (bit % 32) & 1u) << k;
    }
    return code;
}

/* Freeze, then dequantize forward and backward; the trained weight and its frozen form agree. */
static void check_frozen(const qy_device_t *dev, const setup_t *u, int bits)
{
    qy_error_t err = {0};
    int64_t n_words = (u->i * bits + 31) / 32, n = u->o * u->i, groups = u->o * u->n_groups;
    qy_tensor_t codes = test_put_2d(dev, QY_U32, u->o, n_words, NULL);
    qy_tensor_t s16 = test_put_2d(dev, QY_F32, u->o, u->n_groups, NULL);
    qy_tensor_t zeros = test_put_2d(dev, QY_U8, u->o, u->n_groups, NULL);
    test_ok(qy_quant_freeze(dev, &codes, &s16, &zeros, &u->tw, &u->ts, &u->tz, bits, &err), err);
    double *words = test_get(dev, &codes), *want_s = test_zeros(groups),
           *want_z = test_zeros(groups);
    double *w_hat = test_zeros(n), *rounded = test_zeros(n), *ds = test_zeros(groups);
    double *g = test_random(n, 6, 1.0, dev->compute);
    for (int64_t j = 0; j < groups; j++) {
        want_s[j] = (double)qy_round_f16(fmaxf((float)u->s[j], 0x1p-14f));
        want_z[j] = (double)zero_of((float)u->z[j], bits);
    }
    for (int64_t i = 0; i < n; i++) {
        float s = (float)want_s[i / u->n], z = (float)want_z[i / u->n];
        float c = code_of((float)u->w[i], s, z, bits);
        assert_int_equal(code_at(words + i / u->i * n_words, i % u->i, bits), (unsigned)c);
        w_hat[i] = test_round((double)((c - z) * s), dev->compute);
        rounded[i] = test_round((double)qy_round_f16((c - z) * s), dev->compute);
        ds[i / u->n] += g[i] * (double)(c - z);
    }
    check(dev, "s16", &s16, want_s, 0.0);
    check(dev, "zeros", &zeros, want_z, 0.0);
    qy_tensor_t tw = test_put_2d(dev, dev->compute, u->o, u->i, NULL);
    test_ok(qy_dequant_fwd(dev, &tw, &codes, &s16, &zeros, bits, 0, &err), err);
    check(dev, "dequant_fwd", &tw, w_hat, 0.0);
    test_ok(qy_dequant_fwd(dev, &tw, &codes, &s16, &zeros, bits, 1, &err), err);
    check(dev, "dequant_fwd f16", &tw, rounded, 0.0);
    qy_tensor_t tg = test_put_2d(dev, dev->compute, u->o, u->i, g);
    const double off = 4.0 * sqrt((double)u->n) * test_epsilon(QY_F32) * (1 << bits);
    for (int accumulate = 0; accumulate < 2; accumulate++) {
        qy_tensor_t tds = test_put_2d(dev, QY_F32, u->o, u->n_groups, accumulate ? want_z : NULL);
        for (int64_t j = 0; accumulate && j < groups; j++)
            ds[j] += want_z[j];
        test_ok(qy_dequant_bwd(dev, &tds, &tg, &codes, &zeros, bits, accumulate, &err), err);
        check(dev, "dequant_bwd", &tds, ds, off);
        test_release(dev, &tds);
    }
    test_release_all(dev, &codes, &s16, &zeros, &tw, &tg);
    test_drop(words, want_s, want_z, w_hat, rounded, ds, g);
}

/* Groups of 3, 0, 1, 40 and 1 columns with zero points that codes do not reach. */
static void check_clusters(const qy_device_t *dev, int bits)
{
    enum { O = 5, G = 5, I = 45 };
    static const double offsets[G + 1] = {0, 3, 3, 4, 44, 45};
    const int64_t n_words = (I * bits + 31) / 32;
    double group[I], zeros[O * G], *words = test_zeros(O * n_words), *w_hat = test_zeros(O * I);
    double *ds = test_zeros(O * G), *s = test_random(O * G, 2, 0.4, QY_F32);
    double *g = test_random(O * I, 6, 1.0, dev->compute), start[O * G];
    qy_error_t err = {0};
    for (int k = 0; k < G; k++)
        for (int i = (int)offsets[k]; i < (int)offsets[k + 1]; i++)
            group[i] = k;
    for (int i = 0; i < O * G; i++) {
        zeros[i] = i * 7 % 61 - 20;
        start[i] = i;
    }
    for (int i = 0; i < O * I; i++) {
        unsigned code = (unsigned)(i * 37 + i / 5) & ((1u << bits) - 1);
        int row = i / I, bit = i % I * bits, at = row * G + (int)group[i % I];
        for (int k = 0; k < bits; k++)
            if (code >> k & 1)
                words[row * n_words + (bit + k) / 32] += (double)(1u << (bit + k) % 32);
        float w = ((float)code - (float)zeros[at]) * (float)s[at];
        w_hat[i] = test_round((double)w, dev->compute);
        ds[at] += g[i] * (code - zeros[at]);
    }
    qy_tensor_t codes = test_put_2d(dev, QY_U32, O, n_words, words);
    qy_tensor_t ts = test_put_2d(dev, QY_F32, O, G, s), tz = test_put_2d(dev, QY_I32, O, G, zeros);
    qy_tensor_t tgroup = test_put_1d(dev, QY_I32, I, group);
    qy_tensor_t to = test_put_1d(dev, QY_I32, G + 1, offsets);
    qy_tensor_t tw = test_put_2d(dev, dev->compute, O, I, NULL);
    qy_tensor_t tg = test_put_2d(dev, dev->compute, O, I, g);
    test_ok(qy_cluster_dequant_fwd(dev, &tw, &codes, &ts, &tz, &tgroup, bits, &err), err);
    check(dev, "cluster_dequant_fwd", &tw, w_hat, 0.0);
    for (int accumulate = 0; accumulate < 2; accumulate++) {
        qy_tensor_t tds = test_put_2d(dev, QY_F32, O, G, accumulate ? start : NULL);
        for (int i = 0; accumulate && i < O * G; i++)
            ds[i] += start[i];
        test_ok(qy_cluster_dequant_bwd(dev, &tds, &tg, &codes, &tz, &to, bits, accumulate, &err),
                err);
        check(dev, "cluster_dequant_bwd", &tds, ds, 1e-5 * (60 + (1 << bits)));
        test_release(dev, &tds);
    }
    test_refused(qy_cluster_dequant_fwd(dev, &tw, &codes, &ts, &tz, &to, bits, &err), QY_ERR_SHAPE,
                 err);
    test_refused(qy_cluster_dequant_bwd(dev, &ts, &tg, &codes, &tz, &to, 9, 0, &err), QY_ERR_ARG,
                 err);
    test_release_all(dev, &codes, &ts, &tz, &tgroup, &to, &tw, &tg);
    test_drop(words, w_hat, ds, s, g);
}

static void clusters(const qy_device_t *dev)
{
    for (int bits = 2; bits <= 8; bits++)
        check_clusters(dev, bits);
}

static void frozen(const qy_device_t *dev)
{
    for (int k = 0; k < N_SHAPES; k++) {
        setup_t u;
        set_up(&u, dev, shapes[k]);
        for (int bits = 2; bits <= 8; bits++)
            check_frozen(dev, &u, bits);
        tear_down(&u, dev);
    }
}

/* EfficientQAT's pack example: code(o, i) = (i + o) mod 2^N, z(o) = o mod 2^N, s = 0.01 (o + 1). */
static void golden_pack(const qy_device_t *dev)
{
    static const struct {
        int bits, n;
        double words[4];
    } packs[] = {{2, 16, {0xe4e4e4e4, 0x39393939, 0x4e4e4e4e, 0x93939393}},
                 {4, 8, {0x76543210, 0x87654321, 0x98765432, 0xa9876543}}};
    qy_error_t err = {0};
    for (size_t k = 0; k < sizeof packs / sizeof *packs; k++) {
        int n = packs[k].n, bits = packs[k].bits;
        double w[64], s[4], z[4];
        for (int o = 0; o < 4; o++) {
            s[o] = 0.01 * (o + 1);
            z[o] = o % (1 << bits);
            for (int i = 0; i < n; i++)
                w[o * n + i] = ((i + o) % (1 << bits) - z[o]) * s[o];
        }
        qy_tensor_t tw = test_put_2d(dev, QY_F32, 4, n, w), ts = test_put_2d(dev, QY_F32, 4, 1, s);
        qy_tensor_t tz = test_put_2d(dev, QY_F32, 4, 1, z),
                    s16 = test_put_2d(dev, QY_F32, 4, 1, NULL);
        qy_tensor_t codes = test_put_2d(dev, QY_U32, 4, 1, NULL);
        qy_tensor_t zeros = test_put_2d(dev, QY_U8, 4, 1, NULL);
        test_ok(qy_quant_freeze(dev, &codes, &s16, &zeros, &tw, &ts, &tz, bits, &err), err);
        check(dev, "packed words", &codes, packs[k].words, 0.0);
        check(dev, "packed zeros", &zeros, z, 0.0);
        test_release_all(dev, &tw, &ts, &tz, &s16, &codes, &zeros);
    }
}

TEST_ON_DEVICES(frozen)
TEST_ON_DEVICES(clusters)
TEST_ON_DEVICES(golden_pack)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_frozen),
        cmocka_unit_test(test_clusters),
        cmocka_unit_test(test_golden_pack),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
