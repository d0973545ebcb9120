#include "model/qmodel.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "tests/model/random_block.h"

static char dir[] = "/tmp/quarry-qmodel-XXXXXX";
static qy_error_t err;

#define OK(call) assert_int_equal_ok(call, #call, __LINE__)

static void assert_int_equal_ok(qy_status_t status, const char *call, int line)
{
    if (status != QY_OK)
        fail_msg("line %d: %s: %s", line, call, err.text);
}

static void assert_failed(qy_status_t status, qy_status_t wanted, const char *text)
{
    assert_int_equal(status, wanted);
    if (!strstr(err.text, text))
        fail_msg("\"%s\" is not in \"%s\"", text, err.text);
}

/* One layer of each shape, a bias, a norm with and without bias: what list_parts can meet. */
static qy_arch_t small_arch(void)
{
    qy_arch_t arch = {.n_blocks = 2};
    arch.linear[QY_LINEAR_Q] = (qy_linear_desc_t){true, true, 3, 40, "attn.q"};
    arch.linear[QY_LINEAR_DOWN] = (qy_linear_desc_t){true, false, 5, 8, "down"};
    arch.norm[QY_NORM_ATTENTION] = (qy_norm_desc_t){true, true, 7, "first"};
    arch.norm[QY_NORM_MLP] = (qy_norm_desc_t){true, false, 7, "second"};
    return arch;
}

static void path_of(char out[QY_PATH_MAX], const char *name)
{
    OK(qy_path(out, &err, "%s/%s", dir, name));
}

static qy_h5_t *open_new(const char *name)
{
    char path[QY_PATH_MAX];
    qy_h5_t *file;
    path_of(path, name);
    OK(qy_h5_create(&file, path, &err));
    return file;
}

static qy_h5_t *reopen(qy_h5_t *file, const char *name)
{
    char path[QY_PATH_MAX];
    path_of(path, name);
    OK(qy_h5_commit(&file, &err));
    qy_h5_close(&file);
    OK(qy_h5_open(&file, path, &err));
    return file;
}

static void assert_same_tensor(const qy_tensor_t *a, const qy_tensor_t *b)
{
    assert_int_equal(a->data == NULL, b->data == NULL);
    if (!a->data)
        return;
    assert_true(qy_tensor_same_shape(a, b));
    assert_int_equal(a->dtype, b->dtype);
    assert_memory_equal(a->data, b->data, qy_tensor_bytes(a));
}

static void assert_same_block(const qy_qblock_t *a, const qy_qblock_t *b)
{
    for (int i = 0; i < QY_N_LINEARS; i++) {
        assert_same_tensor(&a->codes[i], &b->codes[i]);
        assert_same_tensor(&a->scales[i], &b->scales[i]);
        assert_same_tensor(&a->zeros[i], &b->zeros[i]);
        assert_same_tensor(&a->bias[i], &b->bias[i]);
    }
    for (int i = 0; i < QY_N_NORMS; i++) {
        assert_same_tensor(&a->norm[i], &b->norm[i]);
        assert_same_tensor(&a->norm_bias[i], &b->norm_bias[i]);
    }
}

static void test_shapes(void **state)
{
    (void)state;
    qy_arch_t arch = small_arch();
    qy_quant_form_t form = {.bits = 3, .group = 8};
    qy_qblock_t block;
    OK(qy_qblock_create(&block, &arch, &form, &err));
    assert_int_equal(block.codes[QY_LINEAR_Q].shape[0], 3);
    assert_int_equal(block.codes[QY_LINEAR_Q].shape[1], 4); /* 40 codes of 3 bits: 120 bits */
    assert_int_equal(block.scales[QY_LINEAR_Q].shape[1], 5);
    assert_int_equal(block.scales[QY_LINEAR_DOWN].shape[1], 1);
    assert_null(block.bias[QY_LINEAR_DOWN].data);
    assert_null(block.codes[QY_LINEAR_K].data);
    assert_null(block.norm_bias[QY_NORM_MLP].data);
    for (int i = 0; i < 7; i++)
        assert_true(((float *)block.norm_bias[QY_NORM_ATTENTION].data)[i] == 0.0f);
    qy_qblock_free(&block);
    assert_null(block.storage);
    qy_qblock_free(&block);

    form.group = 0;
    assert_int_equal(qy_quant_group_cols(&form, 40), 40);
    assert_int_equal(qy_quant_n_groups(&form, 40), 1);
    form.group = 16;
    assert_failed(qy_qblock_create(&block, &arch, &form, &err), QY_ERR_SHAPE,
                  "attn.q: group of 16 columns does not divide 40");
    form = (qy_quant_form_t){.bits = 9};
    assert_failed(qy_qblock_create(&block, &arch, &form, &err), QY_ERR_ARG, "9 bits");
}

static void test_round_trip(void **state)
{
    (void)state;
    static const qy_quant_form_t forms[] = {{.bits = 2, .group = 8, .symmetric = false},
                                            {.bits = 3, .group = 0, .symmetric = false},
                                            {.bits = 4, .group = 8, .symmetric = true},
                                            {.bits = 8, .group = 8, .symmetric = false}};
    qy_arch_t arch = small_arch();
    for (size_t f = 0; f < sizeof forms / sizeof *forms; f++) {
        qy_qblock_t block[2], again;
        qy_h5_t *file = open_new("model.h5");
        for (uint64_t b = 0; b < 2; b++) {
            OK(random_block(&block[b], &arch, &forms[f], b, &err));
            OK(qy_qblock_write(&block[b], &arch, file, b ? "001/" : "000/", &err));
        }
        file = reopen(file, "model.h5");
        assert_true(qy_h5_has(file, "001/attn.q/codes"));
        for (int b = 0; b < 2; b++) {
            OK(qy_qblock_read(&again, &arch, &forms[f], file, b ? "001/" : "000/", &err));
            assert_same_block(&block[b], &again);
            qy_qblock_free(&again);
            qy_qblock_free(&block[b]);
        }
        qy_h5_close(&file);
    }
}

/* Writes a block after `spoil` and reads it back under `form`. */
static qy_status_t read_spoilt(const qy_quant_form_t *written, const qy_quant_form_t *form,
                               void (*spoil)(qy_qblock_t *block))
{
    qy_arch_t arch = small_arch();
    qy_qblock_t block, again = {0};
    OK(random_block(&block, &arch, written, 1, &err));
    if (spoil)
        spoil(&block);
    qy_h5_t *file = open_new("block.h5");
    OK(qy_qblock_write(&block, &arch, file, "", &err));
    qy_qblock_free(&block);
    file = reopen(file, "block.h5");
    qy_status_t status = qy_qblock_read(&again, &arch, form, file, "", &err);
    qy_h5_close(&file);
    assert_null(again.storage); /* set only on success */
    return status;
}

static void spoil_zero(qy_qblock_t *block)
{
    ((uint8_t *)block->zeros[QY_LINEAR_DOWN].data)[4] = 4;
}

static void spoil_scale_nan(qy_qblock_t *block)
{
    ((uint16_t *)block->scales[QY_LINEAR_Q].data)[2] = 0x7e00;
}

static void spoil_scale_infinite(qy_qblock_t *block)
{
    ((uint16_t *)block->scales[QY_LINEAR_Q].data)[2] = 0x7c00;
}

static void spoil_scale_zero(qy_qblock_t *block)
{
    ((uint16_t *)block->scales[QY_LINEAR_Q].data)[2] = 0;
}

static void spoil_scale_negative(qy_qblock_t *block)
{
    ((uint16_t *)block->scales[QY_LINEAR_Q].data)[2] = 0xbc00;
}

static void test_refused_content(void **state)
{
    (void)state;
    qy_quant_form_t form = {.bits = 2, .group = 8}, other = {.bits = 2, .group = 4};
    assert_failed(read_spoilt(&form, &form, spoil_zero), QY_ERR_FORMAT, "down/zeros: 4 at 4");
    assert_failed(read_spoilt(&form, &form, spoil_scale_nan), QY_ERR_NUMERIC, "attn.q/scales");
    assert_failed(read_spoilt(&form, &form, spoil_scale_infinite), QY_ERR_NUMERIC, "at 2");
    assert_failed(read_spoilt(&form, &form, spoil_scale_zero), QY_ERR_NUMERIC, "at 2");
    assert_failed(read_spoilt(&form, &form, spoil_scale_negative), QY_ERR_NUMERIC, "at 2");
    assert_int_not_equal(read_spoilt(&form, &other, NULL), QY_OK);
}

/* A file of steps, all `step` but the last of "down", which is `last`. */
static qy_h5_t *write_steps(const qy_arch_t *arch, const qy_qblock_t *like, float step, float last)
{
    qy_h5_t *file = open_new("steps.h5");
    for (int i = 0; i < QY_N_LINEARS; i++) {
        if (!arch->linear[i].present)
            continue;
        float steps[32];
        int64_t n = qy_tensor_count(&like->scales[i]);
        for (int64_t k = 0; k < n; k++)
            steps[k] = i == QY_LINEAR_DOWN && k == n - 1 ? last : step;
        char name[QY_NAME_MAX + 16];
        snprintf(name, sizeof name, "%s/scales", arch->linear[i].name);
        qy_tensor_t t = like->scales[i];
        t.data = steps;
        t.dtype = QY_F32;
        OK(qy_h5_write(file, name, &t, &err));
    }
    return reopen(file, "steps.h5");
}

static void test_read_scales(void **state)
{
    (void)state;
    qy_arch_t arch = small_arch();
    qy_quant_form_t form = {.bits = 2, .group = 8};
    qy_qblock_t block, before;
    OK(random_block(&block, &arch, &form, 3, &err));
    OK(random_block(&before, &arch, &form, 3, &err));

    static const float bad[] = {NAN, INFINITY, 70000.0f, 0.0f, -0.1f};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        qy_h5_t *file = write_steps(&arch, &block, 0.1f, bad[i]);
        assert_failed(qy_qblock_read_scales(&block, &arch, file, &err), QY_ERR_NUMERIC,
                      "down/scales");
        qy_h5_close(&file);
        assert_same_block(&block, &before);
    }
    qy_h5_t *file = write_steps(&arch, &block, 0.1f, 1.00048828125f);
    OK(qy_qblock_read_scales(&block, &arch, file, &err));
    qy_h5_close(&file);
    const uint16_t *q = block.scales[QY_LINEAR_Q].data, *down = block.scales[QY_LINEAR_DOWN].data;
    assert_int_equal(q[14], 0x2e66); /* f16(0.1) */
    assert_int_equal(down[3], 0x2e66);
    assert_int_equal(down[4], 0x3c00); /* halfway from 1 to 1 + 2^-10: to even */
    assert_memory_equal(block.codes[QY_LINEAR_Q].data, before.codes[QY_LINEAR_Q].data,
                        qy_tensor_bytes(&block.codes[QY_LINEAR_Q]));
    qy_qblock_free(&block);
    qy_qblock_free(&before);
}

/* Values worked out by hand: f16(0.1) = 0x2e66 = 819 × 2^-13 (1638 × 2^-14). */
static void test_dequantize_by_hand(void **state)
{
    (void)state;
    qy_arch_t arch = {.n_blocks = 1};
    arch.linear[QY_LINEAR_UP] = (qy_linear_desc_t){true, false, 2, 4, "up"};
    qy_quant_form_t form = {.bits = 3, .group = 2};
    qy_qblock_t block;
    OK(qy_qblock_create(&block, &arch, &form, &err));
    uint32_t *codes = block.codes[QY_LINEAR_UP].data;
    uint16_t *scales = block.scales[QY_LINEAR_UP].data;
    uint8_t *zeros = block.zeros[QY_LINEAR_UP].data;
    codes[0] = 4u | 0u << 3 | 7u << 6 | 3u << 9;
    codes[1] = 1u | 2u << 3 | 5u << 6 | 6u << 9;
    const uint16_t s[4] = {0x2e66, 0x3c00, 0x0400, 0x7800};
    const uint8_t z[4] = {1, 3, 2, 6};
    memcpy(scales, s, sizeof s);
    memcpy(zeros, z, sizeof z);
    /* 3 × 1638 × 2^-14 = 1228.5 × 2^-12, a tie: 1228. −1638 × 2^-14. 4, 0. −2^-14, 0. −2^15, 0. */
    const uint16_t want[8] = {0x34cc, 0xae66, 0x4400, 0x0000, 0x8400, 0x0000, 0xf800, 0x0000};
    uint16_t got[8];
    OK(qy_qblock_dequantize(&block, &arch, QY_LINEAR_UP, got, 2, &err));
    for (int i = 0; i < 8; i++)
        assert_int_equal(got[i], want[i]);

    codes[1] = 1u | 2u << 3 | 5u << 6 | 2u << 9; /* (2 − 6) 2^15 */
    assert_failed(qy_qblock_dequantize(&block, &arch, QY_LINEAR_UP, got, 2, &err), QY_ERR_NUMERIC,
                  "up: weight (1, 3)");
    qy_qblock_free(&block);
}

static int make_dir(void **state)
{
    (void)state;
    return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state)
{
    (void)state;
    return qy_remove_tree(dir, &err) == QY_OK ? 0 : -1;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shapes),
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_refused_content),
        cmocka_unit_test(test_read_scales),
        cmocka_unit_test(test_dequantize_by_hand),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
