#!/usr/bin/env python3
"""Makes tests/data/tasks/kjv.mc.jsonl: a small zero-shot task out of the test text that ships with the project.

Each item is the beginning of a verse; of its continuations one is the verse's own, the others are the ends of
other verses. Nothing is drawn at random: the same text gives the same file.
"""
import json, os

DATA = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "data")
ITEMS = 60


def main():
    with open(os.path.join(DATA, "text/kjv/test.txt"), encoding="utf-8") as f:
        sentences = [s.strip() for s in f.read().replace("\n", " ").split(". ")]
    sentences = [s.split() for s in sentences if 12 <= len(s.split()) <= 60]
    os.makedirs(os.path.join(DATA, "tasks"), exist_ok=True)
    with open(os.path.join(DATA, "tasks/kjv.mc.jsonl"), "w", encoding="utf-8") as out:
        for i in range(ITEMS):
            words, n = sentences[17 * i % len(sentences)], 2 + i % 3
            cut = len(words) - 3 - i % 6
            ends = [" ".join(sentences[(17 * i + 5 * k) % len(sentences)][-3 - (i + k) % 6:]) for k in range(n)]
            ends[0] = " ".join(words[cut:])
            gold = i % n
            ends[0], ends[gold] = ends[gold], ends[0]
            out.write(json.dumps({"id": i, "context": " ".join(words[:cut]), "continuations": [" " + e for e in ends],
                                  "gold": gold}) + "\n")


if __name__ == "__main__":
    main()
