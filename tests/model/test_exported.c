/* What a folder says of its activations, read back: the plans that were exported, bits, and
 * refusals of numbers that do not fit the model. A format that cannot say it is refused only where
 * it must be. */
#include "model/exported.h"

#include <stdio.h>

#include "tests/model/export_fixture.h"

enum { MAPS = 1 << QY_SITE_ATTENTION_IN | 1 << QY_SITE_MLP_IN | 1 << QY_SITE_DOWN_IN };

/* Channel 3 in two equal parts, channels 8 and 9 as their mean. */
static void reassemble(qy_qblock_t *q)
{
    int32_t *offsets = q->map_offsets[QY_SITE_DOWN_IN].data;
    int32_t *items = q->map_items[QY_SITE_DOWN_IN].data;
    int32_t copies[2048], origin[4096], into[4096];
    int64_t n = qy_tensor_count(&q->map_offsets[QY_SITE_DOWN_IN]) - 1;
    for (int64_t c = 0; c < n; c++)
        copies[c] = c == 3 ? 2 : 1;
    qy_channels_expand(origin, copies, n);
    for (int64_t e = 0; e <= n; e++)
        into[e] = origin[e] == 9 ? (int32_t)(e - 1) : -1;
    OK(qy_channels_plan(offsets, items, origin, into, n + 1, n, &err));
}

static void open_mapped(fixture_t *f, void (*change)(qy_qblock_t *))
{
    open_fixture(f, LLAMA, 4, 0, false);
    f->blocks.form.map_sites = MAPS;
    f->blocks.form.activation_bits = 4;
    f->blocks.form.kv_bits = 8;
    f->blocks.change = change;
    f->job.form = f->blocks.form;
}

static void test_round_trip(void **state)
{
    (void)state;
    fixture_t f;
    qy_exported_t e;
    qy_model_t *model = NULL;
    qy_qblock_t want;
    char path[QY_PATH_MAX];
    open_mapped(&f, reassemble);
    export_as(&f, "hf", "mapped");
    path_of(path, "mapped");
    OK(qy_model_open(&model, path, &err));
    OK(qy_exported_read(&e, model, &err));
    assert_int_equal(e.n_blocks, f.model->arch.n_blocks);
    assert_int_equal(e.form.activation_bits, 4);
    assert_int_equal(e.form.kv_bits, 8);
    assert_int_equal(e.form.map_sites, MAPS);
    OK(read_made_up(&f.blocks, 0, &want, &err));
    for (int64_t b = 0; b < e.n_blocks; b++)
        for (int i = 0; i < QY_N_SITES; i++) {
            if (!(MAPS & 1 << i))
                continue;
            assert_memory_equal(e.blocks[b].map_offsets[i].data, want.map_offsets[i].data,
                                qy_tensor_bytes(&want.map_offsets[i]));
            assert_memory_equal(e.blocks[b].map_items[i].data, want.map_items[i].data,
                                qy_tensor_bytes(&want.map_items[i]));
        }
    qy_qblock_free(&want);
    qy_exported_free(&e);
    OK(qy_exported_read(&e, f.model, &err)); /* a checkpoint that nobody exported */
    assert_null(e.blocks);
    qy_model_close(&model);
    qy_model_close(&f.model);
}

static void test_formats(void **state)
{
    (void)state;
    fixture_t f;
    char path[QY_PATH_MAX];
    const qy_exporter_t *packed = qy_exporter_find("compressed-tensors");
    open_mapped(&f, NULL); /* sites might have maps, and none has */
    export_as(&f, "compressed-tensors", "plain");
    f.blocks.change = reassemble;
    path_of(path, "refused");
    assert_failed(qy_export_run(packed, &f.job, path, &err), QY_ERR_UNSUPPORTED,
                  "block 0 needs at down_in and 6 sites in all");
    assert_false(qy_is_dir(path));
    qy_model_close(&f.model);
}

/* {"activation_bits": …} and one map in a copy of a model. */
static void refuse(qy_model_t *model, const char *rest, qy_status_t status, const char *why)
{
    char path[QY_PATH_MAX], text[512];
    qy_exported_t e;
    snprintf(text, sizeof text, "{\"activation_quantizer\":\"token\",%s}", rest);
    OK(qy_path(path, &err, "%s/quarry.json", model->dir));
    OK(qy_file_write(path, text, strlen(text), &err));
    assert_failed(qy_exported_read(&e, model, &err), status, why);
    assert_null(e.blocks);
}

static void test_refusals(void **state)
{
    (void)state;
    fixture_t f;
    qy_model_t *model = NULL;
    char path[QY_PATH_MAX];
    open_fixture(&f, LLAMA, 4, 0, false);
    export_as(&f, "hf", "bad");
    path_of(path, "bad");
    OK(qy_model_open(&model, path, &err));
    refuse(model, "\"activation_bits\":1", QY_ERR_FORMAT, "activation_bits is 1");
    refuse(model, "\"kv_bits\":99", QY_ERR_FORMAT, "kv_bits is 99");
    refuse(model, "\"channel_maps\":[7]", QY_ERR_FORMAT, "no object");
    refuse(model, "\"channel_maps\":[{\"block\":6,\"site\":\"down_in\"}]", QY_ERR_FORMAT,
           "block 6");
    refuse(model, "\"channel_maps\":[{\"block\":0,\"site\":\"o_in\"}]", QY_ERR_FORMAT, "site o_in");
    refuse(model, "\"channel_maps\":[{\"block\":0}]", QY_ERR_FORMAT, "site ?");
    refuse(model, "\"channel_maps\":[{\"block\":0,\"site\":\"mlp_in\"}]", QY_ERR_SHAPE,
           "0 offsets");
    refuse(model,
           "\"channel_maps\":[{\"block\":0,\"site\":\"mlp_in\",\"offsets\":[0,1],\"items\":[0]}]",
           QY_ERR_SHAPE, "2 offsets and 1 items for 256 channels");
    refuse(model,
           "\"channel_maps\":[{\"block\":0,\"site\":\"mlp_in\",\"offsets\":[0,-1],\"items\":[0]}]",
           QY_ERR_FORMAT, "offsets are not all whole numbers");
    qy_model_close(&model);
    qy_model_close(&f.model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_round_trip),
                                       cmocka_unit_test(test_formats),
                                       cmocka_unit_test(test_refusals)};
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
