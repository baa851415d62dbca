"""What Weights & Biases wrote offline: the file it would send, in LevelDB's log format, records in protocol buffers.

https://github.com/google/leveldb/blob/main/doc/log_format.md, after 7 bytes of wandb's own.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BLOCK, HEADER, WHOLE, LAST = 32768, 7, 1, 4


def records(path: Path) -> Iterator[bytes]:
    data, at, parts = path.read_bytes(), HEADER, b""
    while at + HEADER <= len(data):
        left = BLOCK - at % BLOCK
        if left < HEADER:  # too little for a header: zeros
            at += left
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        parts += data[at + HEADER : at + HEADER + length]
        at += HEADER + length
        if kind in (WHOLE, LAST):
            yield parts
            parts = b""


def read_run(path: Path) -> tuple[str, str, list[dict[str, Any]], dict[str, Any]]:
    """(id, project, a mapping per logged line without wandb's own keys, configuration) of a `run-ID.wandb`."""
    from wandb.proto.wandb_internal_pb2 import Record

    run_id, project, history, config = "", "", [], {}
    for content in records(path):
        record = Record.FromString(content)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run_id, project = record.run.run_id, record.run.project
        elif kind == "history":
            items = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
            history.append({name: value for name, value in items.items() if not name.startswith("_")})
        elif kind == "config":
            config |= {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.config.update}
    return run_id, project, history, config
