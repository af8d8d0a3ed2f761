#!/usr/bin/env python3
"""Count the habits of mannered prose per 1,000 words, in docstrings, comments, long strings and Markdown.

    python3 tests/tidy/prose.py gateway README.md docs ...        counts per 1,000 words, and the sum
    python3 tests/tidy/prose.py --worst 40 gateway                the lines with the most of them
    python3 tests/tidy/prose.py --limit 5 gateway                 exit status 1 above the limit

For scale: httpx 1.0, structlog 1.3, JupyterHub 1.7 in code; 0.5 to 2.0 in their docs. A figure is a smoke alarm,
not a goal: rewrite the sentence, never the alarm.
"""
import argparse
import ast
import io
import re
import sys
import tokenize
from pathlib import Path

WORD = re.compile(r"[A-Za-z][A-Za-z'’-]*")
HABITS = {
    "tell, told": r"\b(tell|tells|told|telling)\b",
    "who, whoever, whom, whose": r"\b(who|whoever|whom|whose)\b",
    "ask, asked": r"\b(ask|asks|asked|asking)\b",
    "nobody, somebody, nothing": r"\b(nobody|somebody|everybody|nothing)\b",
    ", too": r", too\b",
    "so that, as far as, as long as": r"\b(as far as|so that|as long as)\b",
    "fused relative as subject": r"(?:^|[.:;] )(What|Who|Whoever|Whom) [a-z]",
    "meanwhile, by now, else, ever": r"\b(meanwhile|by now|else|ever)\b",
    "goes by, stands, bears, there is": r"\b(goes by|go by|went by|stands?|stood|bears?|lends?|lent|is there|are there)\b",
    "of ours, of its own, none of": r"\b(of ours|of its own|of their own|none of)\b",
}


def of_python(path):
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(path.read_text(errors="replace")).readline))
    except (tokenize.TokenError, SyntaxError):
        return
    for token in tokens:
        if token.type == tokenize.COMMENT:
            text = token.string.lstrip("#: ").strip()
            if not text.startswith(("noqa", "type:", "pragma")):
                yield token.start[0], text
        elif token.type == tokenize.STRING:
            try:
                text = ast.literal_eval(token.string)
            except (ValueError, SyntaxError):
                continue
            if isinstance(text, str) and len(text.split()) >= 4 and re.search(r"[a-z]{3}", text):
                yield token.start[0], text


def of_markdown(path):
    fenced = False
    for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
        if line.startswith("```"):
            fenced = not fenced
        if not fenced and line.strip() and not line.startswith("    "):
            yield number, re.sub(r"`[^`]*`", "X", line)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", type=Path)
    parser.add_argument("--worst", type=int, default=0)
    parser.add_argument("--limit", type=float)
    options = parser.parse_args()
    files = [f for p in options.paths for f in ([p] if p.is_file() else sorted(p.rglob("*")))
             if f.suffix in (".py", ".md") and not {".venv", ".git", "node_modules"} & set(f.parts)]
    words, counts, worst = 0, dict.fromkeys(HABITS, 0), []
    for file in files:
        for number, text in (of_python if file.suffix == ".py" else of_markdown)(file):
            words += len(WORD.findall(text))
            here = 0
            for name, pattern in HABITS.items():
                found = len(re.findall(pattern, text, 0 if name.startswith("fused") else re.I))
                counts[name] += found
                here += found
            if here:
                worst.append((here / max(8, len(WORD.findall(text))), file, number, " ".join(text.split())[:150]))
    for name, count in counts.items():
        print(f"{1000 * count / max(1, words):8.2f}  {name}")
    total = 1000 * sum(counts.values()) / max(1, words)
    print(f"{total:8.2f}  in all, per 1,000 of {words} words in {len(files)} files")
    for _, file, number, text in sorted(worst, key=lambda one: -one[0])[: options.worst]:
        print(f"{file}:{number}: {text}")
    sys.exit(options.limit is not None and total > options.limit)


if __name__ == "__main__":
    main()
