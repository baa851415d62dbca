"""Stand-ins for the files that MLPerf's BERT starts from, with the names and formats of the published ones."""

import hashlib
import json
import random

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{i}" for i in range(200))]
CONFIG = {"hidden_act": "gelu", "hidden_size": 8, "num_hidden_layers": 1, "vocab_size": len(VOCABULARY)}
PARTS = ("part-00000-of-00500", "part-00001-of-00500")


def text(seed, n_documents=8):
    """A sentence a line, an empty line between documents."""
    rng = random.Random(seed)

    def sentence():
        return " ".join(rng.choices(VOCABULARY[5:], k=rng.randint(3, 30)))

    documents = ["\n".join(sentence() for _ in range(rng.randint(2, 60))) for _ in range(n_documents)]
    return ("\n\n".join(documents) + "\n").encode()


def stand_ins():
    """name -> content, of everything that two parts of the text need."""
    return {
        "bert_config.json": json.dumps(CONFIG).encode(),
        "vocab.txt": ("\n".join(VOCABULARY) + "\n").encode(),
        "eval.txt": text(0),
        **{name: text(seed) for seed, name in enumerate(PARTS, 1)},
        "model.ckpt-28252.index": b"an index",
        "model.ckpt-28252.data-00000-of-00001": b"\x1f\x8b weights may begin so",
    }


def write_folder(folder, files, at="results4"):
    """The text deeper down, as its archive unpacks."""
    (folder / at).mkdir(parents=True)
    for name, content in files.items():
        is_text = name.startswith(("eval", "part"))
        (folder / (at if is_text else "") / name).write_bytes(content)
    return folder


def md5_list(files, folder="."):
    """As md5sum writes it."""
    return "".join(f"{hashlib.md5(content).hexdigest()}  {folder}/{name}\n" for name, content in files.items()).encode()


def published_at(server, files):
    """What a server must serve to publish files as MLCommons does: path -> content. `server` has its address."""
    in_text = {name: content for name, content in files.items() if name.startswith(("eval", "part"))}
    others = {name: content for name, content in files.items() if name not in in_text}
    sets = {"bert-input-files": ("input", others), "bert-text": ("text/set", in_text)}
    served = {}
    for name, (base, contents) in sets.items():
        served[f"metadata/{name}.uri"] = f"{server.url}/{base}\n".encode()
        served[f"metadata/{name}.md5"] = md5_list(contents, "./deep")
        served |= {f"{base}/deep/{each}": content for each, content in contents.items()}
    return served
