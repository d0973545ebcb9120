/* Templates of chats as the keys of a GGUF file. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/export_gguf.h"

#define KEY "tokenizer.chat_template"

enum { FILE_BYTES_MAX = 16 << 20, NAME_MAX_BYTES = 64 };

/* A template's name as part of a key: ASCII letters and digits, others become '_'. */
static void make_name(char out[NAME_MAX_BYTES + 1], const char *given)
{
    static const char kept[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    size_t n = 0;
    for (; given[n] && n < NAME_MAX_BYTES; n++)
        out[n] = strchr(kept, given[n]) ? given[n] : '_';
    out[n] = '\0';
}

static void put_one(qy_gguf_writer_t *w, const char *name, const char *text)
{
    char key[sizeof KEY + 1 + NAME_MAX_BYTES];
    snprintf(key, sizeof key, KEY ".%s", name);
    qy_gguf_put_string(w, key, text);
}

/* [{"name": …, "template": …}] as {name: template}; of two with one name the last, as in
 * transformers. The caller decrefs; NULL where there is no memory. */
static json_t *collect(const json_t *list)
{
    json_t *chats = json_object(), *entry;
    size_t i;
    json_array_foreach(list, i, entry)
    {
        char name[NAME_MAX_BYTES + 1];
        const char *given = json_string_value(json_object_get(entry, "name"));
        json_t *text = json_object_get(entry, "template");
        if (!given || !*given || !json_is_string(text))
            continue;
        make_name(name, given);
        json_object_set(chats, name, text);
    }
    return chats;
}

/* The keys of gguf-py's add_chat_template. */
static qy_status_t put_named(qy_gguf_writer_t *w, const json_t *list, const char *dir,
                             qy_error_t *err)
{
    json_t *chats = collect(list), *text;
    const char *name;
    if (!chats)
        return qy_fail(err, QY_ERR_MEMORY, "%s: no memory for its chat templates", dir);
    const char *first = json_string_value(json_object_get(chats, "default"));
    if (first)
        qy_gguf_put_string(w, KEY, first);
    json_object_del(chats, "default");
    json_object_foreach(chats, name, text)
    {
        put_one(w, name, json_string_value(text));
    }
    if (json_object_size(chats) > 0)
        qy_gguf_put_array(w, KEY "s", QY_GGUF_STRING, (int64_t)json_object_size(chats));
    json_object_foreach(chats, name, text)
    {
        qy_gguf_put_text(w, name, strlen(name));
    }
    json_decref(chats);
    return QY_OK;
}

qy_status_t qy_gguf_put_chat(qy_gguf_writer_t *w, const json_t *config, const char *dir,
                             qy_error_t *err)
{
    char path[QY_PATH_MAX], *text;
    size_t bytes;
    const json_t *chat = json_object_get(config, "chat_template");
    QY_TRY(qy_path(path, err, "%s/chat_template.jinja", dir));
    if (json_is_array(chat))
        return put_named(w, chat, dir, err);
    if (json_is_string(chat)) {
        qy_gguf_put_string(w, KEY, json_string_value(chat));
    } else if (qy_file_exists(path)) {
        QY_TRY(qy_file_read(path, FILE_BYTES_MAX, &text, &bytes, err));
        qy_gguf_put_string(w, KEY, text);
        free(text);
    }
    return QY_OK;
}
