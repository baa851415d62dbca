"""Random flat batches for tests, and the same batch as padded tensors for Hugging Face's models."""

import torch
import torch.nn.functional as F

BATCH_LAYOUTS = {
    "full": ([16, 16, 16], 16),
    "unpadded": ([16, 3, 9, 16], 16),
    "mixed with padding sequences": ([5, 16, 11, 7, 0], 16),
}


def random_flat_batch(lengths, max_seqlen, vocab_size, n_padding_sequences=0, masked_per_sequence=3, seed=0):
    """A dict with the arguments of BertForPreTraining.forward; the last `n_padding_sequences` lengths are padding."""
    generator = torch.Generator().manual_seed(seed)
    n_tokens, n_real = sum(lengths), len(lengths) - n_padding_sequences
    cu_seqlens = F.pad(torch.tensor(lengths).cumsum(0), (1, 0)).int()
    positions = [
        int(cu_seqlens[i]) + p
        for i in range(n_real)
        for p in torch.randperm(lengths[i], generator=generator)[:masked_per_sequence].tolist()
    ]
    labels = torch.randint(vocab_size, (len(positions),), generator=generator)
    return {
        "input_ids": torch.randint(vocab_size, (n_tokens,), generator=generator),
        "token_type_ids": torch.randint(2, (n_tokens,), generator=generator),
        "position_ids": torch.cat([torch.arange(length) for length in lengths]),
        "cu_seqlens": cu_seqlens,
        "max_seqlen": max_seqlen,
        "masked_lm_positions": torch.tensor([*positions, 0, 0]),
        "masked_lm_labels": torch.cat([labels, torch.tensor([-100, -100])]),
        "next_sentence_labels": torch.randint(2, (n_real,), generator=generator),
    }


def as_padded(batch):
    """The real sequences of a flat batch as Hugging Face wants them: (B, S) ids, types, mask and dense labels."""
    n_sequences, width = len(batch["next_sentence_labels"]), batch["max_seqlen"]
    starts = batch["cu_seqlens"].tolist()
    padded = {name: torch.zeros(n_sequences, width, dtype=torch.long) for name in ("input_ids", "token_type_ids")}
    padded["attention_mask"] = torch.zeros(n_sequences, width, dtype=torch.long)
    padded["labels"] = torch.full((n_sequences, width), -100)
    dense = torch.full_like(batch["input_ids"], -100)
    for position, label in zip(batch["masked_lm_positions"].tolist(), batch["masked_lm_labels"].tolist(), strict=True):
        if label != -100:
            dense[position] = label
    for i in range(n_sequences):
        start, end = starts[i], starts[i + 1]
        for name, flat in (
            ("input_ids", batch["input_ids"]),
            ("token_type_ids", batch["token_type_ids"]),
            ("labels", dense),
        ):
            padded[name][i, : end - start] = flat[start:end]
        padded["attention_mask"][i, : end - start] = 1
    padded["next_sentence_label"] = batch["next_sentence_labels"]
    return padded
