/*
 * Checkpoints for other engines: a table of exporters, one file each (model/export_<name>.c).
 *
 * An exporter writes into DIR.tmp, which becomes DIR when everything is there: config.json as the
 * user's with quantization_config added, tensors, tokenizer files unchanged, recipe.yaml, a model
 * card, and quarry.json, which says what was exported and marks a folder that may be overwritten.
 */
#ifndef QY_MODEL_EXPORT_H
#define QY_MODEL_EXPORT_H

#include <stdio.h>

#include "model/qmodel.h"
#include "model/weights.h"

/* Where an exporter takes quantized blocks from; the caller's. */
typedef struct qy_qsource {
    void *context;
    /* Reads block b as it stands at the end of the run (E2E-QP's steps included). */
    qy_status_t (*read_block)(void *context, int64_t block, qy_qblock_t *out, qy_error_t *err);
} qy_qsource_t;

typedef struct {
    const qy_model_t *model; /* the original checkpoint */
    qy_quant_form_t form;
    qy_qsource_t source;
    const char *recipe;    /* resolved job.yaml, written as recipe.yaml; may be NULL */
    const char *card;      /* text for README.md after its front matter: what was measured */
    const char *plan_hash; /* of the run, for quarry.json; may be NULL */
    const char *version;   /* of this program */
    bool overwrite;        /* an existing export in DIR is replaced; else a DIR in use is refused */
} qy_export_t;

typedef struct {
    const char *name; /* "gptq" */
    const char *help;
    bool maps;  /* says how channels are mapped; others are refused where any are */
    bool whole; /* its file holds tokenizer and configuration: no others are copied */
    /* ARG/UNSUPPORTED with the reason where this form cannot be held exactly. Checked before a run.
     */
    qy_status_t (*check)(const qy_arch_t *arch, const qy_quant_form_t *form, qy_error_t *err);
    /* The same for the model itself, its tokenizer say; NULL: any is fine. */
    qy_status_t (*check_model)(const qy_model_t *model, qy_error_t *err);
    /* Writes the tensors and quantization keys into dir (an existing empty folder). */
    qy_status_t (*write)(const qy_export_t *job, const char *dir, qy_error_t *err);
} qy_exporter_t;

/* NULL where the name is unknown. */
const qy_exporter_t *qy_exporter_find(const char *name);
/* "auto-round, awq, compressed-tensors, gguf, gptq, hf" for messages and help. */
const char *qy_exporter_names(void);

/* Runs one exporter into dir, by way of dir.tmp. */
qy_status_t qy_export_run(const qy_exporter_t *exporter, const qy_export_t *job, const char *dir,
                          qy_error_t *err);

#endif
