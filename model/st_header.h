/* One safetensors header: its JSON into checked entries. Reads no file; used by safetensors.c. */
#ifndef QY_MODEL_ST_HEADER_H
#define QY_MODEL_ST_HEADER_H

#include "model/safetensors.h"

typedef struct {
    qy_st_entry_t *entries;
    int64_t n, capacity;
} qy_st_list_t;

/*
 * Adds the tensors of the header text[0…length) of a file of file_bytes bytes, path naming it in
 * errors and `file` going into the entries. FORMAT unless they tile what follows the header.
 */
qy_status_t qy_st_header_parse(qy_st_list_t *list, int file, const char *path, const char *text,
                               size_t length, uint64_t file_bytes, qy_error_t *err);

/* Adds a tensor of file path; the name is copied. */
qy_status_t qy_st_list_add(qy_st_list_t *list, const qy_st_entry_t *entry, const char *name,
                           const char *path, qy_error_t *err);
void qy_st_list_free(qy_st_list_t *list);

#endif
