#include "model/export.h"

#include <string.h>
#include <unistd.h>

#include "tests/model/export_fixture.h"

/* --- configuration and the files beside --- */

static void check_gptq_config(int bits, int64_t group, bool symmetric, const char *format)
{
    fixture_t f;
    open_fixture(&f, LLAMA, bits, group, symmetric);
    export_as(&f, "gptq", "config");
    json_t *config = read_json("config", "config.json"), *own;
    json_t *quantization = json_object_get(config, "quantization_config");
    json_t *want =
        json_pack("{s:i, s:i, s:b, s:b, s:s, s:s, s:s, s:b, s:b, s:b, s:f, s:s, s:{s:[s]}}", "bits",
                  bits, "group_size", group ? (int)group : -1, "desc_act", 0, "sym", symmetric,
                  "quant_method", "gptq", "checkpoint_format", format, "format", format, "lm_head",
                  0, "true_sequential", 1, "static_groups", 0, "damp_percent", 0.01, "pack_dtype",
                  "int32", "meta", "quantizer", "quarry:1.2.3");
    own = read_json("config", "quantize_config.json");
    assert_true(json_equal(quantization, want));
    assert_true(json_equal(own, want));

    /* Without that key it is the user's file. */
    char *original = read_text(LLAMA, "config.json");
    json_t *before = json_loads(original, 0, NULL);
    json_object_del(config, "quantization_config");
    assert_true(json_equal(config, before));
    free(original);
    json_decref(before);
    json_decref(config);
    json_decref(own);
    json_decref(want);
    qy_model_close(&f.model);
}

static void test_gptq_config(void **state)
{
    (void)state;
    check_gptq_config(2, 64, false, "gptq_v2");
    check_gptq_config(4, 0, true, "gptq");
}

static void test_files(void **state)
{
    (void)state;
    fixture_t f;
    open_fixture(&f, LLAMA, 2, 64, false);
    f.job.recipe = "seed: 2\n";
    f.job.card = "Perplexity 24.1.";
    f.job.plan_hash = "abc123";
    export_as(&f, "hf", "files");
    static const char *const copied[] = {"tokenizer.json", "tokenizer_config.json",
                                         "generation_config.json"};
    for (int i = 0; i < 3; i++) {
        char *a = read_output("files", copied[i]), *b = read_text(LLAMA, copied[i]);
        assert_string_equal(a, b);
        free(a);
        free(b);
    }
    /* This config says float16 already: nothing changes. */
    char *original = read_text(LLAMA, "config.json");
    json_t *config = read_json("files", "config.json"), *same = json_loads(original, 0, NULL);
    assert_true(json_equal(config, same));
    free(original);
    json_decref(config);
    json_decref(same);

    char *recipe = read_output("files", "recipe.yaml"), *card = read_output("files", "README.md");
    assert_string_equal(recipe, "seed: 2\n");
    static const char front[] =
        "---\nbase_model: \"tiny-llama-kjv\"\n"
        "base_model_relation: quantized\nlibrary_name: transformers\n"
        "pipeline_tag: text-generation\ntags:\n- quarry\n- hf\n- 2-bit\n---\n";
    assert_int_equal(strncmp(card, front, strlen(front)), 0);
    assert_non_null(strstr(card, "\nPerplexity 24.1.\n"));
    free(recipe);
    free(card);

    json_t *provenance = read_json("files", "quarry.json");
    json_t *want = json_pack("{s:s, s:s, s:s, s:i, s:i, s:b, s:s}", "quarry_version", "1.2.3",
                             "format", "hf", "base_model", "tiny-llama-kjv", "bits", 2,
                             "group_size", 64, "symmetric", 0, "plan_hash", "abc123");
    assert_true(json_equal(provenance, want));
    json_decref(provenance);
    json_decref(want);
    qy_model_close(&f.model);
}

/* A model in the cache of Hugging Face is named by its repository, not by its commit. */
static void test_cached_model(void **state)
{
    (void)state;
    fixture_t f;
    char from[QY_PATH_MAX], to[QY_PATH_MAX];
    write_brain(1.0f);
    put_file("models--Some--Tiny/snapshots", "x");
    path_of(from, "brain");
    path_of(to, "models--Some--Tiny/snapshots/0123abcd");
    assert_int_equal(rename(from, to), 0);
    open_fixture(&f, to, 4, 8, false);
    export_as(&f, "hf", "cached");
    json_t *provenance = read_json("cached", "quarry.json");
    assert_string_equal(json_string_value(json_object_get(provenance, "base_model")), "Some/Tiny");
    char *card = read_output("cached", "README.md");
    assert_non_null(strstr(card, "\nbase_model: \"Some/Tiny\"\n"));
    assert_non_null(strstr(card, "\n# Tiny, 4 bits\n"));
    free(card);
    json_decref(provenance);
    qy_model_close(&f.model);
}

/* Everything that belongs to a tokenizer comes along; code and pickles do not. */
static void test_copied_files(void **state)
{
    (void)state;
    static const char *const copied[] = {
        "special_tokens_map.json", "vocab.json",      "merges.txt",
        "added_tokens.json",       "tokenizer.model", "chat_template.jinja"};
    static const char *const left[] = {"pytorch_model.bin", "modeling.py", "notes.txt"};
    enum { N_COPIED = sizeof copied / sizeof *copied, N_LEFT = sizeof left / sizeof *left };
    char path[QY_PATH_MAX];
    fixture_t f;
    write_brain(1.0f);
    for (int i = 0; i < N_COPIED; i++)
        put_file("brain", copied[i]);
    for (int i = 0; i < N_LEFT; i++)
        put_file("brain", left[i]);
    path_of(path, "brain");
    open_fixture(&f, path, 4, 8, false);
    export_as(&f, "gptq", "copied");
    for (int i = 0; i < N_COPIED; i++)
        assert_true(has_file("copied", copied[i]));
    for (int i = 0; i < N_LEFT; i++)
        assert_false(has_file("copied", left[i]));
    assert_false(has_file("copied", "recipe.yaml"));
    qy_model_close(&f.model);
}

/* --- refusals --- */

static void test_table(void **state)
{
    (void)state;
    char names[128];
    assert_int_equal(strlen(qy_exporter_names()),
                     snprintf(names, sizeof names, "%s", qy_exporter_names()));
    int n = 0;
    for (char *rest = names, *name; (name = strtok_r(rest, ", ", &rest)); n++) {
        assert_non_null(qy_exporter_find(name));
        assert_string_equal(qy_exporter_find(name)->name, name);
    }
    assert_int_equal(n, 6);
    assert_null(qy_exporter_find("exl2"));
}

static void test_unsupported_forms(void **state)
{
    (void)state;
    const qy_exporter_t *gptq = qy_exporter_find("gptq"), *hf = qy_exporter_find("hf");
    qy_model_t *model;
    OK(qy_model_open(&model, LLAMA, &err));
    qy_arch_t arch = model->arch;
    qy_model_close(&model);
    qy_quant_form_t form = {.bits = 6, .group = 64, .symmetric = false},
                    wide = {.bits = 4, .group = 96, .symmetric = false},
                    good = {.bits = 4, .group = 64, .symmetric = false};
    assert_failed(gptq->check(&arch, &form, &err), QY_ERR_UNSUPPORTED,
                  "gptq holds 2, 3, 4 or 8 bits, not 6");
    OK(hf->check(&arch, &form, &err));
    assert_failed(gptq->check(&arch, &wide, &err), QY_ERR_SHAPE,
                  "self_attn.q_proj: groups of 96 do not divide 256 columns");
    assert_failed(hf->check(&arch, &wide, &err), QY_ERR_SHAPE, "groups of 96");
    OK(gptq->check(&arch, &good, &err));
    arch.linear[QY_LINEAR_UP].out = 500;
    assert_failed(gptq->check(&arch, &good, &err), QY_ERR_UNSUPPORTED,
                  "multiples of 32: mlp.up_proj is 500 × 256");

    /* And a run does not begin. */
    fixture_t f;
    char path[QY_PATH_MAX];
    open_fixture(&f, LLAMA, 6, 64, false);
    path_of(path, "six");
    assert_failed(qy_export_run(gptq, &f.job, path, &err), QY_ERR_UNSUPPORTED, "not 6");
    assert_false(qy_file_exists(path));
    qy_model_close(&f.model);
}

static qy_status_t run_into(fixture_t *f, const char *name, bool overwrite)
{
    char path[QY_PATH_MAX];
    path_of(path, name);
    f->job.overwrite = overwrite;
    return qy_export_run(qy_exporter_find("gptq"), &f->job, path, &err);
}

static void test_targets(void **state)
{
    (void)state;
    fixture_t f;
    open_fixture(&f, LLAMA, 4, 64, false);

    put_file("notes", "thesis.txt");
    assert_failed(run_into(&f, "notes", false), QY_ERR_ARG, "notes: is not empty");
    assert_failed(run_into(&f, "notes", true), QY_ERR_ARG, "no quarry.json");
    assert_failed(run_into(&f, "notes/thesis.txt", true), QY_ERR_ARG, "in the way");
    assert_true(has_file("notes", "thesis.txt"));
    assert_false(has_file(".", "notes.tmp"));
    assert_failed(qy_export_run(qy_exporter_find("gptq"), &f.job, "", &err), QY_ERR_ARG, "folder");

    /* Into a new folder below new ones, then an existing empty one, then over an export. */
    OK(run_into(&f, "deep/below/", false));
    assert_true(has_file("deep/below", "quantize_config.json"));
    char path[QY_PATH_MAX];
    path_of(path, "empty");
    OK(qy_make_dirs(path, &err));
    OK(run_into(&f, "empty", false));
    assert_failed(run_into(&f, "empty", false), QY_ERR_ARG, "is not empty");
    put_file("empty", "stale.txt");
    put_file("empty.tmp", "torn.safetensors"); /* what killed runs leave */
    put_file("empty.tmp", "quarry.json");
    put_file("empty.tmp.old", "older.safetensors");
    put_file("empty.tmp.old", "quarry.json");
    OK(run_into(&f, "empty", true));
    assert_true(has_file("empty", "model.safetensors"));
    assert_false(has_file("empty", "stale.txt"));
    assert_false(has_file("empty", "torn.safetensors"));
    assert_false(has_file(".", "empty.tmp"));
    assert_false(has_file(".", "empty.tmp.old"));

    /* By way of a link, which stays one. */
    char link_path[QY_PATH_MAX];
    path_of(link_path, "link");
    assert_int_equal(symlink("empty", link_path), 0);
    OK(run_into(&f, "link", true));
    assert_int_equal(readlink(link_path, path, sizeof path), 5);
    qy_model_close(&f.model);
}

/* Folders of the user's whose names are those that an export uses beside its target. */
static void test_neighbours(void **state)
{
    (void)state;
    fixture_t f;
    char path[QY_PATH_MAX];
    open_fixture(&f, LLAMA, 4, 64, false);
    put_file("mine.tmp", "thesis.txt");
    assert_failed(run_into(&f, "mine", false), QY_ERR_ARG, "mine.tmp: is not empty and no export");
    assert_true(has_file("mine.tmp", "thesis.txt"));
    put_file("yours.tmp.old", "thesis.txt");
    assert_failed(run_into(&f, "yours", true), QY_ERR_ARG, "yours.tmp.old: is not empty");
    assert_true(has_file("yours.tmp.old", "thesis.txt"));
    put_file(".", "file.tmp");
    assert_failed(run_into(&f, "file", true), QY_ERR_ARG, "file.tmp: is in the way");
    assert_true(has_file(".", "file.tmp"));

    /* Killed between mkdir and the mark, while that was written, and while it was removed. */
    path_of(path, "first.tmp");
    OK(qy_make_dirs(path, &err));
    OK(run_into(&f, "first", false));
    put_file("second.tmp", "quarry.json.tmp.4711");
    OK(run_into(&f, "second", false));
    put_file("third.tmp", "quarry.json");
    put_file("third.tmp/folder", "a.txt");
    OK(run_into(&f, "third", false));
    assert_false(has_file("third", "folder"));
    assert_false(has_file(".", "third.tmp"));
    qy_model_close(&f.model);

    /* The model itself, an export of ours. */
    open_fixture(&f, LLAMA, 4, 64, false);
    export_as(&f, "hf", "self.tmp");
    qy_model_close(&f.model);
    path_of(path, "self.tmp");
    open_fixture(&f, path, 4, 64, false);
    assert_failed(run_into(&f, "self", true), QY_ERR_ARG, "self.tmp: holds the model");
    assert_true(has_file("self.tmp", "model.safetensors"));
    qy_model_close(&f.model);
    OK(qy_remove_tree(path, &err));
}

/* An export of ours is a model of its own, and must not be written over itself. */
static void test_model_in_target(void **state)
{
    (void)state;
    fixture_t f;
    char path[QY_PATH_MAX];
    open_fixture(&f, LLAMA, 4, 64, false);
    export_as(&f, "hf", "self");
    qy_model_close(&f.model);
    path_of(path, "self");
    open_fixture(&f, path, 4, 64, false);
    assert_failed(run_into(&f, "self", true), QY_ERR_ARG, "holds the model");
    assert_true(has_file("self", "model.safetensors"));
    OK(run_into(&f, "sel", true));
    OK(run_into(&f, "sel", true)); /* a name that begins alike is another folder */
    qy_model_close(&f.model);
}

static void shift_zero(qy_qblock_t *block)
{
    ((uint8_t *)block->zeros[QY_LINEAR_UP].data)[9] = 7;
}

static void claim_asymmetric(qy_qblock_t *block)
{
    block->form.symmetric = false;
}

static void claim_two_bits(qy_qblock_t *block)
{
    block->form.bits = 2;
}

static void claim_other_group(qy_qblock_t *block)
{
    block->form.group = 32;
}

static void test_failures_leave_nothing(void **state)
{
    (void)state;
    fixture_t f;
    open_fixture(&f, LLAMA, 4, 64, true);
    f.blocks.fails_at = 3;
    assert_failed(run_into(&f, "lost", false), QY_ERR_IO, "block 3 is lost");
    f.blocks.fails_at = -1;
    f.blocks.change = shift_zero;
    assert_failed(run_into(&f, "lost", false), QY_ERR_FORMAT,
                  "block 0: model.layers.0.mlp.up_proj: zero point 7 in row 2");
    f.blocks.change = claim_asymmetric;
    assert_failed(run_into(&f, "lost", false), QY_ERR_FORMAT, "symmetric 0");
    f.blocks.change = claim_two_bits;
    assert_failed(run_into(&f, "lost", false), QY_ERR_FORMAT, "2 bits");
    f.blocks.change = claim_other_group;
    assert_failed(run_into(&f, "lost", false), QY_ERR_FORMAT, "group 32");
    assert_false(has_file(".", "lost"));
    assert_false(has_file(".", "lost.tmp"));

    /* What was there before stays. */
    f.blocks.change = NULL;
    OK(run_into(&f, "before", false));
    f.blocks.fails_at = 0;
    assert_failed(run_into(&f, "before", true), QY_ERR_IO, "lost");
    assert_true(has_file("before", "model.safetensors"));
    qy_model_close(&f.model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),           cmocka_unit_test(test_unsupported_forms),
        cmocka_unit_test(test_gptq_config),     cmocka_unit_test(test_files),
        cmocka_unit_test(test_cached_model),    cmocka_unit_test(test_copied_files),
        cmocka_unit_test(test_targets),         cmocka_unit_test(test_neighbours),
        cmocka_unit_test(test_model_in_target), cmocka_unit_test(test_failures_leave_nothing),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
