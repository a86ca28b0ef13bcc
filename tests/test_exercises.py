"""The exercises: that a stage can be blanked, that blanks fail and the reference passes, and that
the tests catch what people get wrong. MISTAKES is also the course's list of common ones.
"""

import ast
import contextlib
import inspect
import operator
import os
import re
import shutil
import subprocess
import sys
import time
import types

import pytest
from _pytest.runner import runtestprotocol

import torch  # noqa: F401, once, not in every process that is forked

from blank import READING_ORDER, ROOT, blank, exercises

STAGES = [p.name for p in sorted(ROOT.glob("0?_*"))]
FOLDERS = STAGES + [p.relative_to(ROOT).as_posix() for p in sorted(ROOT.glob("0?_*/extras"))]
SLOWNESS = 3  # a second of a reader is so many here, where the tests share the cores

# stage/file: [(what went wrong, the right code, the wrong code, the test that must see it)]
MISTAKES = {
    "01_tokenizer/bpe.py": [
        ("pairs counted once a word, however often it occurs",
         "counts.get(pair, 0) + weight", "counts.get(pair, 0) + 1", "test_count_pairs"),
        ("an id merged twice", "i += 2 if found else 1", "i += 1", "test_merge"),
        ("the pair at the end forgotten", "i + 1 < len(ids) and", "i + 2 < len(ids) and",
         "test_merge"),
        ("ties broken by the order of the text",
         "min(counts, key=lambda pair: (-counts[pair], pair))\n        rows", "max(counts, "
         "key=counts.get)\n        rows", "test_train_naive"),
        ("a pair that is gone merged when nothing else is left",
         "if not counts.get(best):", "if best is None:", "test_train"),
        ("words whose pairs are new not visited again",
         "                rows_with[pair].add(i)\n",
         "                rows_with[pair] |= set() if merges else {i}\n", "test_train"),
        ("counts of a word that occurs often changed by one",
         "count_pairs(rows[i], counts, -weights[i])", "count_pairs(rows[i], counts, -1)",
         "test_train"),
        ("the merge learned last applied first", "ranks.get(pair, float(\"inf\")))",
         "-ranks.get(pair, float(\"-inf\")))", "test_apply_merges"),
        ("special token taken from user text", "def encode(self, text, allowed_special=())",
         "def encode(self, text, allowed_special=\"all\")",
         "test_special_tokens_only_when_allowed"),
        ("all special tokens taken where one is allowed",
         "self.special if allowed_special == \"all\" else allowed_special", "self.special",
         "test_special_tokens_only_when_allowed"),
        ("negative ids decoded from the end of the list", "            if i < 0:\n",
         "            if i is None:\n", "test_decode_bytes"),
        ("a decode that crashes at padding", "(vocab[i] if i < len(vocab) else b\"\")", "vocab[i]",
         "test_decode_bytes"),
        ("what stands for nothing vanishes", " or \"\\ufffd\".encode())", ")", "test_decode_bytes"),
        ("the shortest special token wins", "key=len, reverse=True)", "key=len)",
         "test_split_special"),
        ("special tokens read as regular expressions",
         "map(regex.escape, sorted(names, key=len, reverse=True))",
         "sorted(names, key=len, reverse=True)", "test_split_special"),
        ("special tokens lost in the split", "regex.split(f\"({pattern})\"",
         "regex.split(f\"(?:{pattern})\"", "test_split_special"),
    ],
    "01_tokenizer/extras/formats.py": [
        ("the soft hyphen taken for printable", "*range(161, 173), *range(174, 256)",
         "*range(161, 256)", "test_byte_letters"),
        ("bytes that don't print numbered by themselves", "256 + others.index(byte)",
         "256 + byte", "test_byte_letters"),
    ],
    "02_data/data.py": [
        ("the hash read backwards", "digest[:8], \"big\"", "digest[:8], \"little\"",
         "test_is_validation"),
        ("the share of training documents given to validation", "< share * 2**64",
         ">= share * 2**64", "test_is_validation"),
        ("no <|bos|> between documents",
         "return document_start(tokenizer) + tokenizer.encode(text)",
         "return tokenizer.encode(text)", "test_encode"),
        ("special token taken from the text of a document",
         "return document_start(tokenizer) + tokenizer.encode(text)",
         "return document_start(tokenizer) + tokenizer.encode(text, \"all\")", "test_encode"),
        ("the last window never drawn", "integers(0, len(self.ids) - self.seq_len)",
         "integers(0, len(self.ids) - self.seq_len - 1)", "test_start"),
        ("the same windows whatever the seed", "default_rng((self.seed, n)).integers(0,",
         "default_rng(n).integers(0,",
         "test_start"),
        ("the same batch for ever", "        self.n += self.batch_size\n", "", "test_next"),
        ("targets not shifted", "self.ids.labels(start + 1, T)", "self.ids.labels(start, T)",
         "test_next"),
        ("the mask not moved along",
         "np.stack([self.ids.labels(start + 1, T) for start in starts])",
         "np.stack([np.where(self.ids.labels(start, T) < 0, -1, self.ids.read(start + 1, T))\n"
         "                          for start in starts])", "test_next"),
        ("every rank reads the same",
         "range(self.n + self.rank, self.n + self.batch_size, self.world)",
         "range(self.n, self.n + self.batch_size, self.world)", "test_next"),
        ("a rank that counts its own rows only", "        self.n += self.batch_size\n",
         "        self.n += len(rows)\n", "test_next"),
        ("special tokens counted as text", "    sizes[list(tokenizer.special.values())] = 0\n", "",
         "test_token_bytes"),
        ("characters counted, not bytes", "[len(token) for token in tokenizer.vocab]",
         "[len(token.decode(errors=\"replace\")) for token in tokenizer.vocab]",
         "test_token_bytes"),
        ("nats reported as bits", "/ (math.log(2) * size.sum())", "/ size.sum()",
         "test_bits_per_byte"),
        ("the loss of special tokens counted", "nats[size > 0].sum()", "nats.sum()",
         "test_bits_per_byte"),
        ("summed in float32", "nats, dtype=np.float64), np.asarray(targets)",
         "nats, dtype=np.float32), np.asarray(targets)", "test_bits_per_byte"),
        ("what was never seen is impossible", "np.asarray(counts) + 1.0",
         "np.asarray(counts) + 0.0", "test_unigram_nats"),
    ],
    "02_data/conversations.py": [
        ("digits that a float does not have", "{Decimal(value.numerator) / value.denominator:f}",
         "{float(value):.10f}", "test_calculate"),
        ("numbers computed from right to left", "value - product()", "value - total()",
         "test_calculate"),
        ("what stands behind an expression not seen", "if words != [\"\"] or abs", "if abs",
         "test_calculate"),
        ("an expression of any length", "len(expression) <= 100 and ", "", "test_calculate"),
        ("the system message left standing", "== [\"system\", \"user\"]",
         "== [\"user\", \"system\"]", "test_in_turns"),
        ("turns that need not alternate", "if role != expected:",
         "if role not in (\"user\", \"assistant\"):", "test_in_turns"),
        ("the user's words learned", "own = role == \"assistant\"", "own = True", "test_render"),
        ("a model that never learns to stop", "say([special[f\"<|{role}_end|>\"]], own)",
         "say([special[f\"<|{role}_end|>\"]], False)", "test_render"),
        ("what the tool said learned", "own and kind != \"output\"", "own",
         "test_render_tools"),
        ("special token taken from user text", "inner = tokenizer.encode(part[\"text\"])",
         "inner = tokenizer.encode(part[\"text\"], \"all\")",
         "test_render_takes_no_special_token_from_users"),
    ],
    "02_data/extras/chatml.py": [
        ("special token taken from user text in ChatML", "tokenizer.encode(header + text)",
         "tokenizer.encode(header + text, \"all\")", "test_render_chatml"),
        ("special token taken from the assistant's text", "[*tokenizer.encode(text), end]",
         "[*tokenizer.encode(text, \"all\"), end]", "test_render_chatml_mask"),
        ("the name of the role learned", "say([start, *tokenizer.encode(header)], 0)",
         "say([start, *tokenizer.encode(header)], 1)", "test_render_chatml_mask"),
        ("the newline behind an answer learned", "say(tokenizer.encode(\"\\n\"), 0)",
         "say(tokenizer.encode(\"\\n\"), int(message[\"role\"] == \"assistant\"))",
         "test_render_chatml_mask"),
        ("a model that never learns to stop", "say([*tokenizer.encode(text), end], 1)",
         "say(tokenizer.encode(text), 1)\n            say([end], 0)", "test_render_chatml_mask"),
        ("the user's words learned", "say([start, *tokenizer.encode(header + text), end], 0)",
         "say([start, *tokenizer.encode(header + text), end], 1)", "test_render_chatml_mask"),
    ],
    "02_data/extras/tasks.py": [
        ("the same split for all abilities", "is_validation(f\"{ability}: {question}\", 0.1)",
         "is_validation(question, 0.1)", "test_split_of"),
        ("the usual share, not a tenth", "is_validation(f\"{ability}: {question}\", 0.1)",
         "is_validation(f\"{ability}: {question}\")", "test_split_of"),
        ("train and val exchanged", "return \"val\" if is_validation",
         "return \"val\" if not is_validation", "test_split_of"),
        ("the carry forgotten", "[1] * carry", "[1] * 0", "test_column_sums"),
        ("the carry kept for all later places", "carry = sum(digits) // 10",
         "carry = carry or sum(digits) // 10", "test_column_sums"),
        ("the places from the left", "return \"\\n\".join(lines)",
         "return \"\\n\".join(lines[::-1])", "test_column_sums"),
        ("the end where the shorter number ends", "range(max(len(str(a)), len(str(b))))",
         "range(min(len(str(a)), len(str(b))))", "test_column_sums"),
        ("a carry of 0 written", "[1] * carry", "[carry]", "test_column_sums"),
    ],
    "02_data/extras/records.py": [
        ("the first = taken for the result", "piece.rpartition(\"=\")", "piece.partition(\"=\")",
         "test_with_calculator"),
    ],
    "02_data/extras/fim.py": [
        ("middle and suffix in the order of the text",
         "return [(PREFIX, prefix), (SUFFIX, suffix), (MIDDLE, middle)]",
         "return [(PREFIX, prefix), (MIDDLE, middle), (SUFFIX, suffix)]", "test_rearrange"),
        ("the first variant of SPM",
         "return [(PREFIX, \"\"), (SUFFIX, suffix), (MIDDLE, prefix + middle)]",
         "return [(SUFFIX, suffix), (PREFIX, prefix), (MIDDLE, middle)]", "test_rearrange"),
    ],
    "02_data/extras/duplicates.py": [
        ("the place in the text not undone", " * inverse[edges[:-n]]", "",
         "test_ngrams_are_the_formula"),
        ("what comes twice counted twice", "return distinct(ngrams(text, n))",
         "return np.sort(ngrams(text, n))", "test_shingles"),
        ("what both have counted twice", "len(a) + len(b) - both", "len(a) + len(b)",
         "test_jaccard"),
        ("the minimum of a shingle, not of a function", ".min(axis=1)", ".min(axis=0)",
         "test_signature_naive"),
        ("the rounds of a signature mixed up", "bins << 48 | rounds[:, None] << 32 |",
         "bins << 48 |", "test_signature_step_by_step"),
        ("bands and rows taken for each other", "1 - (1 - s**rows)**bands",
         "1 - (1 - s**bands)**rows", "test_caught"),
        ("candidates dropped without being compared", "if shares.max() >= self.threshold:",
         "if True:", "test_what_is_not_similar_stays"),
        ("any candidate named, not the most similar", "self.keys[candidates[shares.argmax()]]",
         "self.keys[candidates[0]]", "test_the_most_similar_is_named"),
        ("texts without words are all duplicates", "return np.zeros(0, np.uint32)",
         "return np.zeros(k, np.uint32)", "test_short_texts"),
        ("the last run found, not the first", "[found[0]:]", "[found[-1]:]", "test_overlap"),
    ],
    "02_data/extras/filters.py": [
        ("a notice below the package line believed", "re.match(COMMENTS, text)[0].", "text.",
         "test_is_generated"),
        ("only the first line looked at", "leading, re.MULTILINE))", "leading))",
         "test_is_generated"),
        ("files from Windows missed", "DO NOT EDIT\\.\\r?$\"", "DO NOT EDIT\\.$\"",
         "test_is_generated"),
        ("what was found returned, for whether it was found", "return bool(re.search(r\"^// Code",
         "return (re.search(r\"^// Code", "test_is_generated"),
        ("space counted", "n = len(\"\".join(text.split()))", "n = len(text)",
         "test_number_share"),
        ("letters of hexadecimal numbers left out", "r\"[0-9]\\w*\"", "r\"[0-9]+\"",
         "test_number_share"),
    ],
    "02_data/extras/mixtures.py": [
        ("lost at the border of two parts", "n - k, i + 1, 0\n", "n - k, i + 1, offset\n",
         "test_pieces"),
        ("an empty piece where a part ends", "side=\"right\")", "side=\"left\")", "test_pieces"),
    ],
    "02_data/extras/batches.py": [
        ("windows that share no id", "start = self.windows.next() * self.seq_len",
         "start = self.windows.next() * (self.seq_len + 1)", "test_stream_windows_row"),
        ("a last window that runs over the end", "min(self.seq_len + 1, self.n_tokens - start)",
         "self.seq_len + 1", "test_stream_windows_row"),
        ("the first that fits, not the best", "max(0, bisect_right(lengths, room) - 1)",
         "0", "test_best_fit"),
        ("the longest cut where none fits", "max(0, bisect_right(lengths, room) - 1)",
         "bisect_right(lengths, room) - 1", "test_best_fit"),
        ("what is cut off not counted", "self.cropped += length - used", "pass",
         "test_best_fit_windows"),
        ("the next epoch begun while documents of this one wait",
         "if self.documents.place == self.documents.n and self.buffer:", "if False:",
         "test_best_fit_windows"),
        ("the buffer forgotten when resumed",
         "self.lengths, self.buffer = list(state[\"lengths\"]), list(state[\"buffer\"])", "pass",
         "test_resume"),
        ("the mixture begun anew when resumed",
         "self.taken = [int(n) for n in state[\"taken\"]]", "pass", "test_resume"),
        ("the order of the epoch not restored",
         "self.epoch, self.place = int(state[\"epoch\"]), int(state[\"place\"])\n        "
         "self.order = self.permutation()",
         "self.epoch, self.place = int(state[\"epoch\"]), int(state[\"place\"])",
         "test_shuffled_load_state_dict"),
        ("proportions by chance", "return min(behind, key=lambda i: (taken[i] + 1) / shares[i])",
         "return int(np.random.default_rng(k).choice(len(shares), p=shares))",
         "test_next_source"),
        ("the largest share always first", "(taken[i] + 1) / shares[i])", "-shares[i])",
         "test_next_source"),
        ("targets not shifted", "targets[i, :len(ids) - 1] = labels[1:]",
         "targets[i, :len(ids) - 1] = labels[:-1]", "test_batches_read"),
        ("the mask not moved along", "targets[i, :len(ids) - 1] = labels[1:]",
         "targets[i, :len(ids) - 1] = np.where(labels[:-1] < 0, -1, ids[1:])",
         "test_batches_read"),
        ("padding learned", "np.full((len(batch), self.seq_len), -1, np.int64)",
         "np.zeros((len(batch), self.seq_len), np.int64)", "test_batches_read"),
        ("every rank reads the same", "self.rows()[self.rank::self.world]", "self.rows()",
         "test_every_token_once_per_epoch"),
        ("every worker reads the same", "if turn == worker:", "if turn == 0:",
         "test_every_token_once_per_epoch"),
    ],
    "02_data/extras/packing.py": [
        ("a document's first id given to the one before it", "side=\"right\") - 1",
         "side=\"left\") - 1", "test_in_documents_of_any_row"),
        ("one id too far", "[start, start + n - 1]", "[start, start + n]",
         "test_in_documents_of_any_row"),
    ],
    "02_data/extras/writing.py": [
        ("the user's part of a conversation compressed, too", "if own and i not in special]",
         "if i not in special]", "test_encode_conversation"),
        ("validation text rearranged", "fim if split == \"train\" else 0.0", "fim",
         "test_encode_batch"),
    ],
    "03_model/gpt.py": [
        ("norm by the sum, not the mean", ".pow(2).mean(-1", ".pow(2).sum(-1", "test_rms_norm"),
        ("eps outside the root", "torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + eps)",
         "1 / (x32.pow(2).mean(-1, keepdim=True).sqrt() + eps)", "test_rms_norm"),
        ("squares too large for 16 bits", "x32 = x.float()", "x32 = x", "test_rms_norm"),
        ("computed in bfloat16", "x32 = x.float()",
         "x32 = x if x.dtype == torch.bfloat16 else x.float()", "test_rms_norm"),
        ("rounded twice",
         "(x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype)",
         "x * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + eps).to(x.dtype)", "test_rms_norm"),
        ("speeds on the CPU, positions on the GPU", "head_dim, 2, device=positions.device)",
         "head_dim, 2)", "test_rope_angles"),
        ("rotary speeds that grow", "base ** (-torch.arange", "base ** (torch.arange",
         "test_rope_angles"),
        ("a mirror, not a rotation", "x2 * cos - x1 * sin", "x2 * cos + x1 * sin", "test_rotate"),
        ("neighbours paired, halves joined", "x1, x2 = x.chunk(2, dim=-1)",
         "x1, x2 = x[..., ::2], x[..., 1::2]", "test_rotate"),
        ("mask off by one", "<= positions[..., None]", "< positions[..., None]",
         "test_causal_mask"),
        ("keys counted on the CPU, positions on the GPU", "(n_keys, device=positions.device)",
         "(n_keys)", "test_causal_mask"),
        ("mask that forgets the cache", "<= positions[..., None]",
         "<= torch.arange(positions.shape[-1])[:, None]", "test_causal_mask"),
        ("no 1/sqrt(d)", " / math.sqrt(q.shape[-1]) @", " @", "test_attention_weights"),
        ("softmax over the queries", ".softmax(dim=-1)\n", ".softmax(dim=-2)\n",
         "test_attention_weights"),
        ("masked keys weigh exp(0)", "masked_fill(~mask, float(\"-inf\"))", "masked_fill(~mask, 0)",
         "test_attention_weights"),
        ("query heads share with the wrong key heads",
         "k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)",
         "k.repeat(1, q.shape[1] // k.shape[1], 1, 1)", "test_attention_weights"),
        ("and with the wrong values", "v.repeat_interleave(q.shape[1] // v.shape[1], dim=1)",
         "v.repeat(1, q.shape[1] // v.shape[1], 1, 1)", "test_attention"),
        ("the first queries instead of the last",
         "mask = causal_mask(torch.arange(S - T, S, device=q.device), S)\n    v =",
         "mask = causal_mask(torch.arange(T), S)\n    v =", "test_attention"),
        ("keys that are not rotated", "self.norm(rotate(k, *angles))", "self.norm(k)",
         "test_attention_forward"),
        ("rotated, but not normalised",
         "self.norm(rotate(q, *angles)), self.norm(rotate(k, *angles))",
         "rotate(q, *angles), rotate(k, *angles)", "test_attention_forward"),
        ("heads mixed with positions", "y.transpose(1, 2).flatten(2)", "y.reshape(x.shape)",
         "test_attention_forward"),
        ("a mask that is not handed on", "k, v, mask).to(x.dtype)", "k, v).to(x.dtype)",
         "test_attention_forward"),
        ("ReLU without the square", "F.relu(self.up(x)).square()", "F.relu(self.up(x))",
         "test_mlp"),
        ("the stream overwritten", "return x + self.mlp(", "return self.mlp(", "test_block"),
        ("an MLP that reads the stream as it is", "self.mlp(self.norm(x))", "self.mlp(x)",
         "test_block"),
        ("stale cache position", "torch.arange(self.length, self.length + T,", "torch.arange(T,",
         "test_cache_positions"),
        ("positions on the CPU, keys on the GPU", "self.length + T, device=self.keys.device)",
         "self.length + T)", "test_cache_positions"),
        ("written at the beginning", "self.keys[layer, :, :, self.length:end] = k",
         "self.keys[layer, :, :, :k.shape[2]] = k", "test_cache_append"),
        ("values that stand where keys stand", "self.values[layer, :, :, self.length:end] = v",
         "self.values[layer, :, :, self.length:end] = k", "test_cache_append"),
        ("a cache that stays where it was", "            cache.length += T\n", "            pass\n",
         "test_hidden_with_a_cache"),
        ("every layer moves the cache", "            x = block(x, angles, mask, cache)\n"
         "        if cache is not None:\n            cache.length += T\n",
         "            x = block(x, angles, mask, cache)\n"
         "            if cache is not None:\n                cache.length += T\n",
         "test_hidden_with_a_cache"),
        ("no norm before the head", "            cache.length += T\n        return self.norm(x)\n",
         "            cache.length += T\n        return x\n", "test_hidden"),
        ("masked targets learned as id 0", ".clamp(min=-1)", ".clamp(min=0)", "test_loss"),
        ("targets of the wrong rows", ".view_as(targets)\n", ".view_as(targets.T).T\n",
         "test_loss"),
        ("logits of what nobody learns", "slice(None) if mask is None else y >= 0", "slice(None)",
         "test_loss_with_a_mask_takes_logits_of_targets_alone"),
        ("all logits at once in an evaluation", "if torch.is_grad_enabled() else 512", "",
         "test_loss_without_gradients_takes_logits_in_slices"),
        ("matrices that write to the stream not zero",
         "bound = 0 if \"out\" in name or \"down\" in name else ", "bound = ",
         "test_a_new_model_does_nothing_yet"),
        ("the beginning of a long prompt", "[:, -window:]", "[:, :window]",
         "test_generate_beyond_the_window"),
        ("the older half of a full window", "ids[:, -((window + 1) // 2):], 0",
         "ids[:, :(window + 1) // 2], 0", "test_generate_beyond_the_window"),
        ("a full window read behind what is there", "// 2):], 0", "// 2):], cache.length",
         "test_generate_beyond_the_window"),
    ],
    "03_model/extras/ngrams.py": [
        ("the first id stands before itself", "(j, 0))[:, :T]", "(j, 0), value=1)[:, :T]",
         "test_hash_ngrams"),
        ("ids that come later looked up", "(j, 0))[:, :T]", "(0, j))[:, j:]", "test_hash_ngrams"),
        ("one table for n-grams of every length", "(j - 1) * n_rows + ", "", "test_hash_ngrams"),
    ],
    "03_model/extras/family.py": [
        ("sines where cosines belong", "torch.stack((sin, cos), dim=-1)",
         "torch.stack((cos, sin), dim=-1)", "test_sinusoids"),
        ("all sines, then all cosines", "torch.stack((sin, cos), dim=-1).flatten(-2)",
         "torch.cat((sin, cos), dim=-1)", "test_sinusoids"),
        ("the activation on both sides of the gate", "* self.up(x))",
         "* self.activation(self.up(x)))", "test_mlp"),
        ("a gate that stays open", "self.activation(self.gate(x))", "self.gate(x)", "test_mlp"),
        ("one norm for both", "self.mlp(self.mlp_norm(x))", "self.mlp(self.attention_norm(x))",
         "test_block"),
        ("matrices that write to the stream not zero", "** -0.5 if tied or std else 0", "** -0.5",
         "test_new_weights"),
    ],
    "03_model/extras/losses.py": [
        ("z where nothing is learned", " * (targets.flatten() >= 0)", "", "test_smoothed_loss"),
        ("targets of the wrong rows", "nats.view_as(targets)", "nats.view_as(targets.T).T",
         "test_smoothed_loss"),
    ],
    "03_model/extras/ragged.py": [
        ("samples of the wrong prompt", "[i for i in range(len(rows)) for _ in range(n_samples)]",
         "[i for _ in range(n_samples) for i in range(len(rows))]",
         "test_samples_share_one_reading_of_the_prompt"),
        ("stale cache position", "starts[:, None] + torch.arange(",
         "0 * starts[:, None] + torch.arange(", "test_positions"),
        ("all rows where the first one is", "starts[:, None] + torch.arange(",
         "starts[:1, None] + torch.arange(", "test_append"),
        ("the layer moves the cache", "        return keys[:, :, :end]",
         "        self.lengths = [n + T for n in self.lengths]\n        return keys[:, :, :end]",
         "test_append"),
        ("values that stand where keys stand", "for x in (k, v))", "for x in (k, k))",
         "test_append"),
    ],
    "03_model/extras/budget.py": [
        ("key/value heads counted as query heads", "(C + bias) * (C + 2 * keys)",
         "(C + bias) * 3 * C", "test_count_parameters"),
        ("no gate in SwiGLU", "(1 + (family.activation == \"swiglu\")) * (C + bias)", "(C + bias)",
         "test_count_parameters"),
        ("a bias as long as what goes in", "(F + bias) * C", "F * (C + bias)",
         "test_count_parameters"),
        ("shifts in an RMSNorm", "(bias and family.norm == \"layernorm\")", "bias",
         "test_count_parameters"),
        ("the norm behind the embedding forgotten", "2 * L + 1 + family.embed_norm", "2 * L + 1",
         "test_count_parameters"),
        ("a tied head counted twice", "0 if family.tied else V * C", "V * C",
         "test_count_parameters"),
        ("a tied head not multiplied", "bias=False, tied=False)", "bias=False)",
         "test_flops_per_token"),
        ("biases multiplied", "bias=False, tied=False)", "tied=False)", "test_flops_per_token"),
        ("the embedding multiplied", "for name in (\"attention\", \"mlp\", \"head\")}",
         "for name in (\"attention\", \"mlp\", \"head\", \"embedding\")}", "test_flops_per_token"),
        ("attention's own products forgotten",
         " + 12 * config.n_layer * config.d_model * config.seq_len", "", "test_flops_per_token"),
    ],
    "03_model/extras/heads.py": [
        ("keys without values", "return 2 * config.n_layer * config.n_kv_head",
         "return config.n_layer * config.n_kv_head", "test_cache_bytes"),
        ("keys for every query head", "return 2 * config.n_layer * config.n_kv_head",
         "return 2 * config.n_layer * config.n_head", "test_cache_bytes"),
        ("four bytes, whatever is stored", "* value_bytes * n_tokens", "* 4 * n_tokens",
         "test_cache_bytes"),
    ],
    "03_model/extras/weights.py": [
        ("values turned too", "heads[:H + G, 1]", "heads[:, 1]", "test_turned"),
        ("queries turned, but not keys", "heads[:H + G, 1]", "heads[:H, 1]", "test_turned"),
        ("all heads taken for one", "view(H + 2 * G, 2, -1)",
         "view(2, H + 2 * G, -1).transpose(0, 1)", "test_turned"),
        ("what was given changed", "heads = rows.clone().view", "heads = rows.view",
         "test_turned"),
        ("as many keys as queries",
         "heads = (config.n_head, config.n_kv_head, config.n_kv_head)",
         "heads = (config.n_head,) * 3", "test_divided"),
        ("heads counted, not their rows", "[n * config.head_dim for n in heads]", "heads",
         "test_divided"),
    ],
    "04_train/optim.py": [
        ("the root of the root", "largest / norm)", "(largest / norm)**0.5)", "test_clip"),
        ("the norm of a part taken for that of all",
         "add(norm.double() ** 2) ** 0.5 if add else norm", "norm", "test_clip_of_a_part"),
        ("norms added where their squares should be", "add(norm.double() ** 2) ** 0.5",
         "add(norm.double())", "test_clip_of_a_part"),
        ("small gradients made larger", "    if norm > largest:\n", "    if norm:\n", "test_clip"),
        ("a tensor returned, not a float",
         "float(add(norm.double() ** 2) ** 0.5 if add else norm)",
         "add(norm.double() ** 2) ** 0.5 if add else norm", "test_clip"),
        ("a tensor returned where others have the rest",
         "float(add(norm.double() ** 2) ** 0.5 if add else norm)",
         "add(norm.double() ** 2) ** 0.5 if add else float(norm)", "test_clip_of_a_part"),
        ("squares added in float32", "norm.double() ** 2", "norm ** 2", "test_clip_of_a_part"),
        ("a first step of nothing", "(step + 1) / warmup if", "step / warmup if",
         "test_learning_rate"),
        ("the cool-down of the wrong length", "(config.cooldown * steps) if", "steps if",
         "test_learning_rate"),
        ("a cool-down of the steps behind the warm-up", "(config.cooldown * steps) if",
         "(config.cooldown * (steps - warmup)) if", "test_learning_rate"),
        ("cut off at the lowest rate, not on its way to it", "rise, low + (1 - low) * left",
         "rise, max(low, left)", "test_learning_rate"),
        ("a fall that begins with the warm-up", "max(1, steps - warmup))", "steps)",
         "test_learning_rate_that_falls_all_the_way"),
        ("a schedule off by one", "min(1.0, (steps - step) /", "min(1.0, (steps - step - 1) /",
         "test_learning_rate_that_falls_all_the_way"),
        ("half a wave too much", "math.cos(math.pi * (1 - left))",
         "math.cos(2 * math.pi * (1 - left))", "test_learning_rate_that_falls_all_the_way"),
        ("the last step of the warm-up below the peak", "math.sqrt(max(1, warmup) / (step + 1))",
         "math.sqrt(max(1, warmup) / (step + 2))", "test_learning_rate_inverse_sqrt"),
        ("a division by nothing where a run ends in its warm-up", "max(1, steps - warmup))",
         "(steps - warmup))", "test_learning_rate_at_the_corners"),
        ("bias correction missing", "m / (1 - b1**t), v / (1 - b2**t)", "m, v",
         "test_adamw_by_hand"),
        ("bias corrected for one step less", "m / (1 - b1**t), v / (1 - b2**t)",
         "m / (1 - b1**max(1, t - 1)), v / (1 - b2**max(1, t - 1))", "test_adamw_by_hand"),
        ("the decay part of the gradient", "    m = b1 * m + (1 - b1) * gradient\n",
         "    gradient, decay = gradient + decay * p, 0\n"
         "    m = b1 * m + (1 - b1) * gradient\n", "test_adamw_by_hand"),
        ("a decay that the learning rate does not scale", "return p - lr * (m_hat / (v_hat.sqrt() "
         "+ eps) + decay * p)", "return p - lr * m_hat / (v_hat.sqrt() + eps) - decay * p",
         "test_adamw_by_hand"),
        ("eps under the root", "(v_hat.sqrt() + eps)", "(v_hat + eps).sqrt()",
         "test_adamw_by_hand"),
        ("momentum without the look ahead", "return gradient.lerp(average, momentum)",
         "return average.clone()", "test_nesterov"),
        ("a look ahead from the old average", "    average.lerp_(gradient, 1 - momentum)\n"
         "    return gradient.lerp(average, momentum)\n",
         "    ahead = gradient.lerp(average, momentum)\n"
         "    average.lerp_(gradient, 1 - momentum)\n    return ahead\n", "test_nesterov"),
        ("an average that is forgotten", "average.lerp_(", "average = average.lerp(",
         "test_nesterov"),
        ("tall matrices not transposed", "tall = X.shape[1] > X.shape[2]", "tall = False",
         "test_orthogonalize_works_on_the_short_side"),
        ("wide matrices transposed", "tall = X.shape[1] > X.shape[2]",
         "tall = X.shape[1] < X.shape[2]", "test_orthogonalize_works_on_the_short_side"),
        ("and not transposed back", "(X.mT if tall else X).reshape(G.shape)",
         "X.reshape(G.shape)", "test_orthogonalize"),
        ("the norm of the whole batch", "X.norm(dim=(1, 2), keepdim=True)", "X.norm()",
         "test_orthogonalize_a_batch_is_one_by_one"),
        ("not divided by the norm", "    X = X / (X.norm(dim=(1, 2), keepdim=True) + 1e-7)\n", "",
         "test_orthogonalize"),
        ("zeros divided by zero", " + 1e-7)\n", ")\n", "test_orthogonalize_zeros_and_types"),
        ("a cubic, not a quintic", "alpha=c)", "alpha=0.0)",
         "test_orthogonalize_lifts_each_value_by_the_polynomial"),
        ("queries, keys and values as one matrix", "[self.parts.get(p, [len(p)]) for",
         "[[len(p)] for", "test_optimizer_is_muon"),
        ("an average that begins anew in every step", "[p for p in params if not self.state[p]]",
         "params", "test_muon"),
        ("one average for all matrices", "nesterov(p.grad, self.state[p][\"average\"],",
         "nesterov(p.grad, self.state[params[0]][\"average\"],", "test_muon"),
        ("a step up the gradient", ".sub_(direction,", ".add_(direction,", "test_muon"),
        ("matrices not orthogonalised", "        orthogonalize_parts(ahead,",
         "        list(ahead) and (ahead,", "test_muon"),
        ("tall matrices changed as if they were square", " * max(1, rows / columns)**0.5", "",
         "test_orthogonalize_parts"),
        ("a Muon that never decays",
         "p.mul_(1 - group[\"lr\"] * group[\"weight_decay\"]).sub_", "p.sub_",
         "test_optimizer_is_muon"),
        ("the head orthogonalised, too", "for p in model.blocks.parameters() if p.dim() == 2",
         "for p in model.parameters() if p.dim() == 2", "test_optimizer_is_muon"),
        ("a second moment that remembers too long", "(0.9, config.beta2)",
         "(0.9, 0.999)", "test_optimizer_is_adamw"),
        ("tables and gains decayed", "\"params\": others, \"weight_decay\": 0.0",
         "\"params\": others, \"weight_decay\": 0.1", "test_optimizer_is_adamw"),
    ],
    "04_train/runs.py": [
        ("written under its own name, half of it where a kill comes",
         "    aside = folder / f\".checkpoint.{os.urandom(4).hex()}.tmp\"", "    aside = target",
         "test_a_kill_at_any_moment_leaves_whole_checkpoints"),
        ("renamed before it is on the disk",
         "        to_disk(*folder.glob(\"metrics.jsonl\"), *aside.rglob(\"*\"), aside)\n", "",
         "test_a_checkpoint_is_on_the_disk_before_it_has_its_name"),
        ("half a checkpoint left behind", "    finally:\n        shutil.rmtree(aside, "
         "ignore_errors=True)\n", "", "test_weights_that_are_not_finite_are_not_saved"),
        ("weights that are not finite saved", "if not tensor.isfinite().all():", "if False:",
         "test_weights_that_are_not_finite_are_not_saved"),
        ("the best checkpoint deleted", "[-keep:], best_checkpoint(folder)}", "[-keep:]}",
         "test_the_newest_and_the_best_are_kept"),
        ("no checksum of the weights", "for p in sorted(aside.rglob(\"*\")) if p.is_file()}",
         "for p in sorted(aside.glob(\"*\")) if p.is_file()}", "test_save_checkpoint"),
        ("resumed on other data", "if state[\"data\"] != data.hash:", "if False:",
         "test_restore_weights"),
        ("the optimizer's state without the weights", "        load_weights(model, checkpoint)\n"
         "        return state\n", "        return state\n", "test_restore_weights"),
    ],
    "04_train/extras/bigrams.py": [
        ("what is not to be learned counted", "[np.asarray(targets) >= 0]", "",
         "test_count_bigrams"),
        ("a row for the next id, a column for the one before",
         "np.asarray(ids) * vocab_size + targets",
         "np.asarray(ids) + np.asarray(targets) * vocab_size", "test_count_bigrams"),
        ("whether one follows another, not how often", "counts.astype(np.float32)",
         "(counts > 0).astype(np.float32)", "test_count_bigrams"),
        ("a rare id weighs as much as a frequent one", "counts / counts.sum()",
         "counts / counts.sum(dim=1, keepdim=True).clamp(min=1)", "test_learn_bigrams"),
        ("the table not trained", "name in TRAINED]", "name in TRAINED[1:]]",
         "test_learn_bigrams"),
        ("the loss of the last rows alone", "loss += nats.detach()", "loss = nats.detach()",
         "test_rows_at_a_time_make_no_difference"),
        ("rates that never fall", "lr * min(1, 2 * (steps - step) / steps)\n        opt",
         "lr\n        opt", "test_rates_fall_from_the_middle_on"),
    ],
    "04_train/extras/report.py": [
        ("an average that starts at zero", "average / (1 - weight**i)", "average", "test_smooth"),
        ("the new value weighed as the old ones", "weight * average + (1 - weight) * value",
         "(1 - weight) * average + weight * value", "test_smooth"),
        ("the mean of the rates", "(tokens[j] - tokens[i]) / (seconds[j] - seconds[i])",
         "np.mean(np.diff(tokens[i:j + 1]) / np.diff(seconds[i:j + 1]))", "test_throughput"),
        ("all tokens over the time of one stretch",
         "(tokens[j] - tokens[i]) / (seconds[j] - seconds[i])",
         "tokens[j] / (seconds[j] - seconds[i])", "test_throughput"),
        ("the last, shorter stretch lost", "[*range(0, n, -(-n // most)), n]",
         "[*range(0, n + 1, -(-n // most))]", "test_throughput"),
        ("more points than were asked for", "-(-n // most)", "max(1, n // most)",
         "test_throughput"),
        ("a negative rate where a clock began anew", "if seconds[j] > seconds[i]",
         "if seconds[j] != seconds[i]", "test_throughput"),
    ],
    "04_train/train.py": [
        ("loss not divided by the accumulation", "loss(*parts).sum() / n_targets",
         "loss(*parts).sum() / max(1, (parts[1] >= 0).sum())",
         "test_micro_batches_give_the_gradients_of_one_big_batch"),
        ("the mean of the micro-batches' means, however few targets one has",
         "loss(*parts).sum() / n_targets", "loss(*parts).sum() / max(1, (parts[1] >= 0).sum()) "
         "* len(parts[1]) / len(arrays[1])",
         "test_micro_batches_give_the_gradients_of_one_big_batch"),
        ("masked tokens counted", "loss(*parts).sum() / n_targets",
         "loss(*parts).sum() / arrays[1].numel()",
         "test_micro_batches_give_the_gradients_of_one_big_batch"),
        ("a batch without targets makes nan", "max(1, int((batch[1] >= 0).sum()))",
         "int((batch[1] >= 0).sum())", "test_a_batch_without_targets_changes_nothing_into_nan"),
        ("the learning rate not followed",
         "group[\"lr\"] = group[\"scale\"] * learning_rate(step, config)", "pass",
         "test_train_step"),
        ("one rate for all groups", "group[\"scale\"] * learning_rate(", "learning_rate(",
         "test_train_step_gives_each_group_its_rate"),
        ("gradients never clipped", "clip(gradients, config.grad_clip)",
         "clip(gradients, 1e9)", "test_train_step"),
        ("a step never taken", "    optimizer.step()\n    opt", "    opt", "test_train_step"),
        ("gradients never cleared", "    optimizer.zero_grad()\n    return mean, norm",
         "    return mean, norm",
         "test_micro_batches_give_the_gradients_of_one_big_batch"),
        ("float32 whatever was asked for", "enabled=dtype != torch.float32):\n            nats",
         "enabled=False):\n            nats",
         "test_train_step_computes_in_the_dtype_that_was_asked_for"),
        ("scores written where they were not made", "row[skip:len(nats) - start]",
         "row[:len(nats) - start - skip]", "test_score_of_spans"),
        ("an evaluation in float32 whatever was asked for", "enabled=dtype != torch.float32):\n"
         "            losses", "enabled=False):\n            losses",
         "test_score_computes_in_the_dtype_that_was_asked_for"),
        ("a cost for what no window scores", "nats = np.zeros(len(ids) - 1)",
         "nats = np.ones(len(ids) - 1)", "test_score_of_spans"),
        ("every process scores all", "spans[rank::world], len", "spans, len", "test_score"),
        ("a process that calls a divided model less often", "(most - len(mine)), -(-most //",
         "(most - len(mine)), -(-len(mine) //", "test_score"),
        ("an evaluation of one process's share", "nats = total(score(", "nats = (score(",
         "test_evaluate_on_many_processes"),
        ("some windows left out of each process's share, not of all",
         "[(start, 0) for start in starts],\n" + 23 * " " + "min(config.micro_batch, share), "
         "config.dtype, rank, world)",
         "[(i, 0) for i in range(0, n, T)][rank::world][::starts.step // T])",
         "test_evaluate_on_many_processes"),
    ],
    "04_train/extras/length.py": [
        ("a part of a step dropped", "return math.ceil(tokens /", "return int(tokens /",
         "test_planned_steps_rounds_up"),
        ("the embedding table counted", "config.tokens_per_param * outside_table(model_config)",
         "config.tokens_per_param * sum(count_parameters(model_config).values())",
         "test_planned_steps_of_tokens"),
        ("the ratio before the FLOPs", "    if config.flops:\n",
         "    if config.flops and not config.tokens_per_param:\n", "test_planned_steps_precedence"),
        ("attention for nothing", "config.flops / flops_per_token(model_config)",
         "config.flops / (6 * outside_table(model_config))", "test_planned_steps_of_flops"),
        ("a step of one window", "tokens / (config.batch_size * config.seq_len)",
         "tokens / config.seq_len", "test_planned_steps_of_tokens"),
        ("steps overruled by FLOPs", "    if config.steps:\n",
         "    if config.steps and not config.flops:\n", "test_planned_steps_precedence"),
    ],
    "04_train/extras/watch.py": [
        ("a spike that hides the next", "min(loss, limit)]", "loss]", "test_seen"),
        ("a loss at the limit taken for a spike", "return loss > limit", "return loss >= limit",
         "test_seen"),
        ("spikes among the first few losses", "if n >= self.least:", "if n:", "test_seen"),
        ("all losses remembered", "limit)][-self.window:]", "limit)]", "test_seen"),
        ("the variance taken for the deviation", "self.far * math.sqrt(", "self.far * (",
         "test_seen"),
        ("only the last tensor of a group", "moved.get(group, 0) + ", "", "test_update_ratios"),
        ("a share of what the weights are now", "float(before[name].square().mean())",
         "float(p.square().mean())", "test_update_ratios"),
        ("all tensors of a group alike, however large", "n * float(change.square().mean())",
         "float(change.square().mean())", "test_update_ratios"),
        ("squares left squares", "(moved[group] / size[group])**0.5",
         "moved[group] / size[group]", "test_update_ratios"),
        ("divided by zeros", "for group in size if size[group]}", "for group in size}",
         "test_update_ratios"),
    ],
    "04_train/extras/ladder.py": [
        ("parameters and tokens swapped", "A / n**alpha + B / d**beta",
         "A / d**alpha + B / n**beta", "test_predicted"),
        ("what no model can know forgotten", "return E + A / n", "return A / n", "test_predicted"),
        ("the ratio upside down", "(alpha * A / (beta * B)) **", "(beta * B / (alpha * A)) **",
         "test_best_split"),
        ("the exponents swapped", "return (G * (flops / 6) ** (beta /",
         "return (G * (flops / 6) ** (alpha /", "test_best_split"),
        ("a budget of N D, not of 6 N D", "return (G * (flops / 6)", "return (G * flops",
         "test_best_split"),
        ("tokens that G multiplies too", "** (alpha / (alpha + beta)) / G",
         "** (alpha / (alpha + beta)) * G", "test_best_split"),
    ],
    "04_train/extras/dpo.py": [
        ("the mean of an answer's log-probabilities, not their sum", "-loss(x, y).sum(1)",
         "-loss(x, y).mean(1)", "test_log_ratios"),
        ("the reference forgotten", ".sum(1) - reference", ".sum(1)", "test_log_ratios"),
        ("padding and prompt counted", "-loss(x, y).sum(1)", "-loss(x, y.clamp(min=0)).sum(1)",
         "test_log_ratios"),
        ("rejected answers made likelier", "(beta * (chosen - rejected))\n\n\ndef sums",
         "(beta * (rejected - chosen))\n\n\ndef sums", "test_dpo_loss"),
        ("beta forgotten", "-F.logsigmoid(beta * (chosen - rejected))",
         "-F.logsigmoid(chosen - rejected)", "test_dpo_loss"),
        ("a loss that overflows", "-F.logsigmoid(beta * (chosen - rejected))",
         "-torch.log(torch.sigmoid(beta * (chosen - rejected)))", "test_dpo_loss"),
        ("earlier answers of the conversation learned, too",
         "            targets[b, :begin - 1] = -1\n", "            pass\n",
         "test_what_is_learned_is_the_last_answer_and_its_end"),
        ("a loss for each answer, not for each pair", "counted[::2, 0] = 0", "counted[:, 0] = 0",
         "test_the_law_with_two_models"),
    ],
    "04_train/extras/lora.py": [
        ("an adapter that changes the model before it has learned anything",
         "torch.zeros(self.out_features, rank)", "torch.randn(self.out_features, rank)",
         "test_adapt"),
        ("alpha not divided by the rank", "self.scale = alpha / rank\n", "self.scale = alpha\n",
         "test_adapt"),
        ("W trained beside its adapter",
         "        self.requires_grad_(False)\n        self.lora_a", "        self.lora_a",
         "test_adapt"),
        ("A 0 as well as B, so that neither has a gradient, ever",
         "nn.init.normal_(self.lora_a, std",
         "nn.init.zeros_(self.lora_a) if rank else dict(std", "test_adapt"),
        ("A of one size for all widths", "std=self.in_features ** -0.5", "std=0.02", "test_adapt"),
        ("the scale forgotten when B A is used", " + self.scale * F.linear(low",
         " + F.linear(low", "test_forward"),
        ("the scale forgotten when B A is merged", "+= self.scale * self.lora_b @",
         "+= self.lora_b @", "test_merged"),
        ("W lost when B A is merged", "self.weight += self.scale", "self.weight[:] = self.scale",
         "test_merged"),
        ("the bias lost when B A is merged", "linear.weight, linear.bias = self.weight, self.bias",
         "linear.weight, linear.bias = self.weight, None", "test_merged"),
    ],
    "04_train/sft.py": [
        ("conversations packed as they come",
         "sorted(range(len(lengths)), key=lambda i: -lengths[i])", "range(len(lengths))",
         "test_pack"),
        ("a window that is full to the last id not found", "bisect_left(left, (lengths[i],))",
         "bisect_left(left, (lengths[i] + 1,))", "test_pack"),
        ("conversations that see each other", "(same & causal_mask(", "(causal_mask(",
         "test_packed_mask"),
        ("ids that see what comes after them",
         "(same & causal_mask(torch.arange(T, device=starts.device), T))", "same",
         "test_packed_mask"),
        ("positions that go on from the conversation before",
         "torch.arange(x.shape[1], device=x.device) - starts",
         "torch.arange(x.shape[1], device=x.device) + 0 * starts", "test_packed_loss"),
        ("a mask that is off by one", "labels(start + 1, n - 1)", "labels(start, n - 1)",
         "test_read"),
        ("the user's words learned", "self.ids.labels(start + 1, n - 1)",
         "self.ids.read(start + 1, n - 1)", "test_read"),
        ("the end of an answer not learned",
         "targets[b, here] = self.ids.labels(start + 1, n - 1)",
         "targets[b, here] = [*self.ids.labels(start + 1, n - 2), -1]", "test_read"),
        ("padding that sees other padding",
         "np.tile(np.arange(self.seq_len), (len(windows), 1))",
         "np.full(shape, self.seq_len)", "test_read"),
    ],
    "04_train/rl.py": [
        ("commas of thousands read as the end", "Decimal(re.sub(\"[$,]\", \"\", found[0]))",
         "Decimal(found[0].replace(\"$\", \"\").partition(\",\")[0])", "test_number_at"),
        ("spaces that hide the number", "NUMBER.match(text.strip())", "NUMBER.match(text)",
         "test_number_at"),
        ("the last #### taken", "re.search(r\"####(.*)\", text)",
         "[None, *re.finditer(r\"####(.*)\", text)][-1]", "test_answer_of"),
        ("what can't be read equal to what can't be read", "    if not expected:\n        raise",
         "    if False:\n        raise", "test_a_reference_that_can_not_be_read_is_an_error"),
        ("18.0 not taken for 18", "found, expected = number_at(found), number_at(expected)", "pass",
         "test_reward"),
        ("a list of numbers compared by its first", "NUMBER.fullmatch(expected.rstrip(\".\"))",
         "NUMBER.match(expected)", "test_reward"),
        ("pass@k as if answers were put back", "1 - math.comb(n - c, k) / math.comb(n, k)",
         "1 - (1 - c / n) ** k", "test_pass_at_k"),
        ("the end that was drawn not kept", "            values.append(value)\n",
         "            values += [value] * (i not in self.ends)\n", "test_an_answer"),
        ("the calculator's output learned", "own = self.tokenizer.special, not self.forced",
         "own = self.tokenizer.special, True", "test_the_calculator_answers"),
        ("outputs for what can't be computed", "is not None:\n                self.forced",
         "or 1:\n                result = str(result)\n                self.forced",
         "test_the_calculator_answers"),
        ("a call that stays open", "            self.call = None\n        elif", "        elif",
         "test_the_calculator_answers"),
        ("top-k in rollouts", "p = logits.softmax(-1)",
         "logits = logits.masked_fill(logits < logits.topk(2).values[:, -1:], -1e30)\n"
         "    p = logits.softmax(-1)", "test_draw"),
        ("the temperature forgotten when an id is drawn", "logits = logits / temperature\n    p",
         "p", "test_draw"),
        ("ids of probability 0 drawn", "right=True", "right=False", "test_draw"),
        ("rewards without their group's mean", "rewards - rewards.mean(axis=1, keepdims=True)",
         "1.0 * rewards", "test_advantages"),
        ("the mean of all groups", "rewards.mean(axis=1, keepdims=True)", "rewards.mean()",
         "test_advantages"),
        ("advantages divided by the deviation",
         "return rewards - rewards.mean(axis=1, keepdims=True)",
         "return (rewards - rewards.mean(axis=1, keepdims=True)) / (rewards.std(axis=1, keepdims="
         "True) + 1e-6)", "test_advantages"),
        ("the temperature forgotten in training", "(logits / temperature).flatten(0, 1)",
         "logits.flatten(0, 1)", "test_policy_loss"),
        ("worse answers made likelier", "return advantage * nats\n\n\ndef as_arrays",
         "return -advantage * nats\n\n\ndef as_arrays", "test_policy_loss"),
        ("the end of an answer not learned", "np.where(answer.own, answer.ids, -1)",
         "[*answer.ids[:-1], -1]", "test_as_arrays"),
        ("the calculator's output a target", "np.where(answer.own, answer.ids, -1)", "answer.ids",
         "test_as_arrays"),
        ("questions learned, too", "        targets[b, here] =",
         "        targets[b, :here.start] = prompt[1:]\n        targets[b, here] =",
         "test_as_arrays"),
        ("targets that are off by one", "slice(len(prompt) - 1, len(prompt) + len(answer.ids) - 1)",
         "slice(len(prompt), len(prompt) + len(answer.ids))", "test_as_arrays"),
        ("each answer weighed by its length", "return advantage[own] * nats\n",
         "return advantage[own] * nats / own.sum(1)[own.nonzero()[:, 0]]\n",
         "test_the_gradient_is_that_of_the_policy"),
        ("answers that were cut off taken for right", "if answer.ended else 0.0\n", "\n",
         "test_a_batch"),
    ],
    "05_sample/sample.py": [
        ("ties let in more than k",
         "return torch.full_like(logits, float(\"-inf\")).scatter(-1, ids, values)",
         "return logits.masked_fill(logits < values[..., -1:], float(\"-inf\"))", "test_top_k"),
        ("the id that crosses p dropped", "before >= p", "before + probs > p", "test_top_p"),
        ("sorted back wrongly", ".scatter(-1, ids, ordered)", ".copy_(ordered)", "test_top_p"),
        ("penalised where they were not seen", "torch.where(seen, weaker, logits)",
         "torch.where(seen, logits, weaker)", "test_penalise"),
        ("negative logits divided too", "logits / penalty, logits * penalty)", "logits / penalty, "
         "logits / penalty)", "test_penalise"),
        ("min-p of 1, not of the likeliest", "p * probs.amax(dim=-1, keepdim=True)", "p",
         "test_min_p"),
        ("temperature on probabilities instead of logits",
         "logits = (logits - logits.amax(dim=-1, keepdim=True)) / sampling.temperature\n",
         "logits = (logits.softmax(-1) / sampling.temperature).log()\n", "test_distribution"),
        ("temperature after the cut", "    if sampling.min_p:\n",
         "    logits = logits / sampling.temperature\n    if sampling.min_p:\n",
         "test_distribution"),
        ("an id of probability 0 drawn", "right=True)", "right=False)", "test_draw"),
        ("probabilities added up in float32", "probs.cpu().double()", "probs.cpu()", "test_draw"),
        ("numbers rounded to float32", "torch.tensor(uniforms, dtype=torch.double)",
         "torch.tensor(uniforms)", "test_draw"),
        ("rows that don't add up to 1 run over", "uniforms * cdf[:, -1:]", "uniforms",
         "test_draw"),
        ("half a character shown", "self.decoder.decode(self.tokenizer.decode_bytes(ids), final)",
         "self.tokenizer.decode_bytes(ids).decode(\"utf-8\", \"replace\")", "test_text_stream"),
        ("half a character left over at the end", "decode_bytes(ids), final)",
         "decode_bytes(ids))", "test_text_stream"),
        ("what may become a stop string shown",
         "return self.show(len(self.pending) - held_back(self.pending, self.stops))",
         "return self.show(len(self.pending))", "test_add"),
        ("the stop string shown", "return self.show(min(found))",
         "return self.show(len(self.pending))", "test_add"),
        ("the first stop string of the list, not of the text", "self.show(min(found))",
         "self.show(found[0])", "test_add"),
        ("a text that does not end at its end", "        if i in self.end_ids:\n",
         "        if False:\n", "test_add"),
        ("a whole stop string held back for ever", "range(1, len(s))",
         "range(1, len(s) - 1)", "test_held_back"),
    ],
    "05_sample/chat.py": [
        ("the cache of another text used", "if a != b), len(held))", "if a != b and False), "
         "len(held))", "test_a_text_that_goes_on_is_not_read_again"),
        ("the whole prompt taken from the cache and nothing computed",
         "min(same, len(prompt) - 1), [*prompt]", "min(same, len(prompt)), [*prompt]",
         "test_a_text_that_goes_on_is_not_read_again"),
        ("the whole conversation read again at each turn",
         "min(same, len(prompt) - 1), [*prompt]", "0, [*prompt]",
         "test_a_text_that_goes_on_is_not_read_again"),
        ("the calculator never called", "i = answer.add(pick(model.logits(x)).item(), 0.0, 0.0)",
         "i = pick(model.logits(x)).item()", "test_the_calculator_is_called_and_shown"),
        ("the end of an answer forgotten", "whole[len(prompt_ids(empty[:1], tokenizer)):]",
         "whole[len(prompt_ids(empty[:1], tokenizer)) + 1:]", "test_next_turn"),
        ("the system's message given to the newest turn",
         '{"role": "user", "content": first}], self', '{"role": "user", "content": first}][-1:], '
         "self", "test_prompt"),
        ("a base model asked as if it had seen conversations",
         "ids = start_of(first, self.tokenizer)",
         'ids = prompt_ids([{"role": "user", "content": first}], self.tokenizer)', "test_prompt"),
        ("the newest turns forgotten", "prompts = [self.prompt(self.turns[n:], text)",
         "prompts = [self.prompt(self.turns[:len(self.turns) - n], text)", "test_make_room"),
        ("one turn forgotten each time, so that each time all is read again",
         "most = most if len(prompts[0]) <= most else max(window // 2, len(prompts[-1]))", "pass",
         "test_make_room"),
        ("no room left for the answer", "most = window - min(self.n_tokens, window // 2)",
         "most = window", "test_make_room"),
    ],
    "05_sample/api.py": [
        ("true taken for the number 1", "isinstance(value, bool) != (kind is bool)):",
         "False):", "test_field"),
        ("finish_reason on every chunk", '"finish_reason": None}]', '"finish_reason": "length"}]',
         "test_parts_of_an_answer"),
        ("nan let through", "not least <= value <= most:", "(value < least or value > most):",
         "test_field"),
    ],
    "05_sample/serve.py": [
        ("an event that does not end", 'json.dumps(answer).encode() + b"\\n\\n"',
         'json.dumps(answer).encode() + b"\\n"', "test_event"),
    ],
    "05_sample/extras/lookup.py": [
        ("the first place, not the latest", "matches[-1] + n", "matches[0] + n", "test_guess"),
        ("the match itself guessed", "matches[-1] + n", "matches[-1]", "test_guess"),
        ("shortest match first", "range(min(longest, N - 1), 0, -1)",
         "range(1, min(longest, N - 1) + 1)", "test_guess"),
        ("wrong guesses kept in the cache", "cache.length = known + i\n", "pass\n",
         "test_steps_counted"),
        ("ids chosen behind a wrong guess", "guesses[i] != row[end - 1]", "False",
         "test_steps_counted"),
    ],
    "05_sample/extras/batching.py": [
        ("the cache of another text used", "self.named.get((last, i))",
         "next((s for (_, j), s in self.named.items() if j == i), None)", "test_find"),
        ("the whole prompt taken from the cache, and nothing computed", "for i in ids[:-1]:",
         "for i in ids:", "test_find"),
        ("positions that start again behind what is shared", "[text.n_read for text in texts]",
         "[0 for text in texts]", "test_append"),
        ("values that stand where keys stand", "(self.values[layer], v)", "(self.values[layer], k)",
         "test_append"),
        ("prompts read without a limit", "n = min(text.unread - 1, left)", "n = text.unread - 1",
         "test_step"),
        ("the oldest gives way, not the newest", "self.running.pop()", "self.running.pop(0)",
         "test_step_without_memory"),
        ("who had to give way is the last that waits", "self.waiting.insert(0, newest)",
         "self.waiting.append(newest)", "test_step_without_memory"),
        ("what two begin with computed twice", "self.named.setdefault(name, own)", "own",
         "test_step_of_texts_that_begin_alike"),
    ],
    "05_sample/extras/quant.py": [
        ("one scale for the whole matrix", "w.abs().amax(dim=1) / 127",
         "w.abs().amax().expand(len(w)) / 127", "test_quantize_rows"),
        ("cut off, not rounded", "(w / scales[:, None]).round()", "(w / scales[:, None])",
         "test_quantize_rows"),
        ("128 steps: the largest value overflows to -128", "w.abs().amax(dim=1) / 127",
         "w.abs().amax(dim=1) / 128", "test_quantize_rows"),
        ("a row of zeros has the scale 0", "scales[scales == 0] = 1", "scales[scales == 0] = 0",
         "test_quantize_rows"),
        ("16 steps between the ends, of which 4 bits can't name the last",
         "- smallest) / 15).clamp", "- smallest) / 16).clamp", "test_quantize_groups"),
        ("the offset is the smallest number's, not that of q = 8", "smallest + 8 * scale]",
         "smallest]", "test_quantize_groups"),
        ("rounded before the scale is", "scale, offset = steps.split(1, dim=2)",
         "offset = smallest + 8 * scale", "test_quantize_groups"),
        ("not kept within 4 bits", "+ 8).round().clamp(0, 15)", "+ 8).round()",
         "test_quantize_groups"),
        ("the range leaves 0.0 out", "x.min().clamp(max=0), x.max().clamp(min=0)",
         "x.min(), x.max()", "test_quantize_tensor"),
        ("not kept within the range", ".round().clamp(0, top).to(", ".round().to(",
         "test_quantize_tensor"),
        ("the zero is not taken off", "(u.int() - zero) @", "u.int() @",
         "test_int8_linear_by_hand"),
        ("one scale for all rows of x", "largest = x.abs().amax(dim=1, keepdim=True).clamp",
         "largest = x.abs().amax().clamp", "test_int8_linear_by_hand"),
        ("rows not multiplied back", "y = whole * scale * scales * largest",
         "y = whole * scale * scales", "test_int8_linear_by_hand"),
        ("a product in int8, which overflows", "(u.int() - zero) @ q.int().t()",
         "(u.int() - zero).to(torch.int8) @ q.t()", "test_int8_linear_by_hand"),
    ],
    "05_sample/extras/microscope.py": [
        ("the last norm left out", "model.logits(model.norm(x))", "model.logits(x)",
         "test_logit_lens"),
        ("what a block reads, not what it returns", "found.append(x)", "found.append(given[0])",
         "test_logit_lens"),
        ("the probability of the id that was read, not of the one that came",
         "probs[:, ids[position]]", "probs[:, ids[position - 1]]", "test_logit_lens"),
        ("the token that is to be predicted was read", "torch.tensor([ids[:position]]",
         "torch.tensor([ids[:position + 1]]", "test_logit_lens"),
        ("the first position, not the last", "x[0, -1] for x in found", "x[0, 0] for x in found",
         "test_logit_lens"),
    ],
    "05_sample/extras/lookback.py": [
        ("the end of the text comes after every id", "rank = np.zeros(N + 1, np.int32)",
         "rank = np.full(N + 1, N + 1, np.int32)", "test_suffix_array"),
        ("suffixes that are still equal ranked by where they stand",
         "np.maximum.accumulate(at * differs[at]) + 1", "at + 1", "test_suffix_array"),
        ("ids compared by their bytes", "np.argsort(ids, kind=\"stable\")",
         "np.argsort([i.tobytes() for i in ids], kind=\"stable\")", "test_suffix_array"),
        ("sorted by the first ids only", "differs[at[1:]] |= pair[1:] != pair[:-1]",
         "differs[at[1:]] = True", "test_suffix_array"),
        ("the suffix before the pattern's place not looked at", "order[max(at - 1, 0):at + 1]",
         "order[at:at + 1]", "test_longest_match"),
        ("the suffix behind the pattern's place not looked at", "order[max(at - 1, 0):at + 1]",
         "order[max(at - 1, 0):at]", "test_longest_match"),
        ("the whole pattern counted, not what was found of it",
         "    pattern = pattern[:length]", "    #", "test_longest_match"),
        ("the last place not counted", "bisect_right(order, pattern, key=beginning) - first",
         "bisect_right(order, pattern, key=beginning) - first - 1", "test_longest_match"),
        ("suffixes compared to their ends, not as far as the pattern goes",
         "return ids[i:i + len(pattern)].tolist()", "return ids[i:].tolist()",
         "test_longest_match"),
        ("what the last ids begin with looked for, not what they end with",
         "self.order, pattern[::-1])", "self.order, pattern)", "test_matches"),
        ("matches that go on in the next document",
         "np.insert(data.train.read(start, size), inner - start, end)",
         "data.train.read(start, size)", "test_no_match_goes_beyond_its_document"),
    ],
    "06_eval/evals.py": [
        ("overlapping windows counted twice", "0 if i == 0 else seq_len - stride", "0",
         "test_windows"),
        ("the last target never scored", "max(0, n_tokens - 1 - seq_len)",
         "max(0, n_tokens - 2 - seq_len)", "test_windows"),
        ("the mean of the exps", "np.exp(np.mean(nats))", "np.mean(np.exp(nats))",
         "test_perplexity"),
        ("windows averaged, not positions", "nats[i::seq_len]",
         "nats[i * seq_len:(i + 1) * seq_len]", "test_by_position"),
        ("the incomplete last window dropped", "np.mean(nats[i::seq_len])",
         "np.mean(nats[:len(nats) // seq_len * seq_len][i::seq_len])", "test_by_position"),
        ("tokens taken for independent",
         "(np.bincount(documents, weights=x) for x in (bits, sizes))",
         "(np.asarray(x, dtype=float) for x in (bits, sizes))", "test_standard_error"),
        ("shots drawn from the item itself", "items[:i] + items[i + 1:]", "items", "test_shots"),
        ("the same shots before every item", "return random.Random(1234 + i)",
         "return random.Random(1234)", "test_shots"),
        ("no blank line behind a shot", "[gold_of(kind, example)] + \"\\n\\n\"",
         "[gold_of(kind, example)] + \"\\n\"", "test_alternatives"),
        ("shots solved with their first choice", "with_choices(example)[gold_of(kind, example)]",
         "with_choices(example)[0]", "test_alternatives"),
        ("the delimiter forgotten", "item[\"query\"] + delimiter + choice",
         "item[\"query\"] + \" \" + choice", "test_alternatives"),
        ("a continuation stripped of the space that is to be predicted",
         "+ delimiter + item[\"continuation\"]]", "+ delimiter + item[\"continuation\"].strip()]",
         "test_alternatives"),
        ("a space before the continuation left standing",
         "item[\"context\"].strip() + delimiter).strip(), *texts]",
         "item[\"context\"].strip() + delimiter), *texts]", "test_alternatives"),
        ("only the first two rows compared", "for column in zip(*rows)]",
         "for column in zip(*rows[:2])]", "test_common_prefix"),
        ("equal ids counted wherever they stand", "return (same + [False]).index(False)",
         "return sum(same)", "test_common_prefix"),
        ("a suffix counted from the start", "row[::-1] for row in rows", "row for row in rows",
         "test_common_suffix"),
        ("a common suffix taken for a prefix", "if kind == \"schema\":\n        starts",
         "if kind == \"\":\n        starts", "test_spans"),
        ("the question scored, too", "starts = [common_prefix(rows)] * len(rows)",
         "starts = [1] * len(rows)", "test_spans"),
        ("the ids of the choice counted by itself", "starts = [common_prefix(rows)] * len(rows)",
         "starts = [len(row) - len(tokenizer.encode(text.split(\" \")[-1]))\n"
         "                  for row, text in zip(rows, texts)]", "test_spans"),
        ("a span that begins one id late", "starts = [common_prefix(rows)] * len(rows)",
         "starts = [common_prefix(rows) + 1] * len(rows)", "test_spans"),
        ("BOS forgotten", "rows = [encode(text, tokenizer) for text in texts]",
         "rows = [tokenizer.encode(text) for text in texts]", "test_spans"),
        ("cropped on the right", "[(row[cut:], max(", "[(row[:len(row) - cut], max(",
         "test_spans_in_a_small_window"),
        ("the start left behind when a row is cropped", "min(start, len(row) - 1) - cut)",
         "min(start, len(row) - 1))", "test_spans_in_a_small_window"),
        ("losses off by one", "model.hidden(ids[:, :-1])[0, start - 1:]",
         "model.hidden(ids)[0, start:]", "test_span_losses"),
        ("losses of the ids before the span", "model.hidden(ids[:, :-1])[0, start - 1:]",
         "model.hidden(ids[:, :-1])[0, :len(targets)]", "test_span_losses"),
        ("sum for mean", "    return means.index(min(means))",
         "    means = [float(nats.sum()) for nats, _ in losses]\n"
         "    return means.index(min(means))", "test_is_right"),
        ("the highest loss chosen", "return means.index(min(means))",
         "return means.index(max(means))", "test_is_right"),
        ("one id of a continuation enough", "bool(losses[0][1].all())", "bool(losses[0][1].any())",
         "test_is_right"),
        ("a loss taken for a decision", "return bool(losses[0][1].all())",
         "return bool(losses[0][0].mean() < 1)", "test_is_right"),
        ("centring with percent", "(accuracy - baseline / 100) / (1 - baseline / 100)",
         "(accuracy - baseline) / (1 - baseline)", "test_centred"),
        ("the distance to the baseline not divided",
         "(accuracy - baseline / 100) / (1 - baseline / 100)", "(accuracy - baseline / 100)",
         "test_centred"),
    ],
    "06_eval/extras/scoring.py": [
        ("padding attended to", "torch.arange(n_shared, device=shared.device) < "
         "shared[:, None, None]", "torch.arange(n_shared, device=shared.device) < n_shared "
         "+ 0 * shared[:, None, None]", "test_branch_mask"),
        ("choices that see each other", "own = same & causal_mask",
         "own = (branches > 0)[:, :, None] & causal_mask", "test_branch_mask"),
        ("ids that see what follows them", "own = same & causal_mask(torch.arange(T, "
         "device=shared.device), T)", "own = same", "test_branch_mask"),
    ],
    "06_eval/extras/core.py": [
        ("the interval of a normal distribution, which has no width at 0",
         "(z / (2 * n)) ** 2)", "0)", "test_interval"),
        ("a middle that is not moved", "middle = p + z * z / (2 * n)", "middle = p",
         "test_interval"),
        ("an interval of 90%", "[2.5, 97.5])", "[5, 95])", "test_paired_bootstrap"),
        ("the others minus ours", "np.asarray(ours, float) - np.asarray(others, float)",
         "np.asarray(others, float) - np.asarray(ours, float)", "test_paired_bootstrap"),
    ],
    "06_eval/humaneval.py": [
        ("a completion cut at the wrong brace", "if not depth and not head:\n                end",
         "if not head and not end:\n                end", "test_cut_go"),
        ("functions that follow lost", "if text != \"func\":\n                break", "break",
         "test_cut_go"),
        ("interface{} taken for a function's body",
         " and before not in (\"interface\", \"struct\")", "", "test_cut_go"),
        ("a function without an end kept", "return completion[:end] if end else completion",
         "return completion[:at] if end else completion", "test_cut_go"),
        ("the last stop taken for the first", "completion[:min((at for",
         "completion[:max((at for", "test_cut_python"),
        ("exit code 0 taken for a pass", "if ended.code else \"ended early\"",
         "if ended.code else \"passed\"", "test_verdict"),
        ("the secret searched for anywhere", "said.startswith(secret):", "secret in said:",
         "test_verdict"),
        ("a verdict without the secret believed", "said = ended.said.decode(\"latin-1\")",
         "said = secret + ended.said.decode(\"latin-1\")", "test_verdict"),
        ("a limit forgotten once the verdict was said", "if ended.kind != \"ended\":",
         "if ended.kind != \"ended\" and not ended.said:", "test_verdict"),
        ("time of compiling counted as running", "ended = go_run(work, secret, limits,",
         "ended = go_run(work, secret, Limits(max(0.1, options.seconds - built.seconds)),",
         "test_compiling_takes_no_time_of_the_program"),
    ],
    "06_eval/extras/programs.py": [
        ("an import found in a comment", "found = [(\"\", \"\"), *words(code),",
         "found = [(\"\", \"\"), *words(re.sub(r\"//|/[*]|[*]/\", \" \", code)),", "test_packages"),
        ("a field taken for a package", "if kind == \"name\" and before != \".\":",
         "if kind == \"name\":", "test_packages"),
        ("a type assertion taken for a package", "after == \".\" and behind == \"name\" else",
         "after == \".\" else", "test_packages"),
        ("a variable taken for a package", "return used - (alone - set(known))", "return used",
         "test_packages"),
        ("a variable that hides the package which it is made of",
         "return used - (alone - set(known))", "return used - alone", "test_packages"),
    ],
    "06_eval/extras/replies.py": [
        ("the signature stays", "parts[at][body_start(parts[at], python):]", "parts[at]",
         "test_the_function_is_found"),
        ("main goes along", r"\b(?!\s+(?:main|Test\w*|Benchmark\w*|Example\w*)\()", r"\b",
         "test_the_function_is_found"),
        ("helpers before the function lost", "for i, part in enumerate(parts) if",
         "for i, part in enumerate(parts) if i > at and", "test_helpers_of_go"),
        ("what the prompt defines defined twice", "if name_of(part) not in known",
         "if name_of(part) != wanted", "test_helpers_of_go"),
        ("calls for show put into the body", "re.match(before if i < at else HELPER[python], part)",
         "re.match(before, part)", "test_python"),
        ("Python's lines as far in as they came", "\"    \") + indented(body)", "\"    \") + body",
         "test_python"),
    ],
    "06_eval/extras/renumbering.py": [
        ("a result 6 and the question's 6 that become different numbers",
         "new.setdefault(result, Decimal(found)) != Decimal(found)",
         "new.update({result: Decimal(found)})", "test_fits"),
        ("two numbers that become equal", "all(a < b for a, b in zip(ordered",
         "all(a <= b for a, b in zip(ordered", "test_fits"),
        ("a whole number that becomes a fraction",
         " or decimals(new[result]) > decimals(result):", ":", "test_fits"),
    ],
    "06_eval/extras/renaming.py": [
        ("a field of a literal renamed", "or method or field or package",
         "or method or package", "test_kept_names"),
        ("a method renamed", "or method or field or package", "or field or package",
         "test_kept_names"),
        ("a variable taken for a field by its :=", 'field = before in ("{", ",") and after == ":"',
         'field = before in ("{", ",") and after[:1] == ":"', "test_kept_names"),
    ],
    "06_eval/extras/twins.py": [
        ("the twins minus the originals",
         "np.mean(right, axis=1) - np.mean(twin_right, axis=1)",
         "np.mean(twin_right, axis=1) - np.mean(right, axis=1)", "test_memorised"),
        ("the interval of two scores that have nothing to do with each other",
         "CERTAIN * gains.std(ddof=1) /", "CERTAIN * math.hypot(np.std(np.mean(right, axis=1), "
         "ddof=1), np.std(np.mean(twin_right, axis=1), ddof=1)) /", "test_memorised"),
    ],
    "07_scale/scale.py": [
        ("each rank's loss divided by its own targets",
         "total((batch[1] >= 0).sum(dtype=float))", "(batch[1] >= 0).sum()", "test_train_step"),
        ("double-counted accumulation: every micro-batch the last",
         "last=i == len(micro_batches))", "last=True)", "test_train_step"),
        ("a stop that the others don't hear of", "torch.tensor([float(mean), stop]",
         "torch.tensor([float(mean), 0]", "test_all_ranks_hear_of_a_stop"),
        ("buffers not sent", "[*model.parameters(), *model.buffers()]", "[*model.parameters()]",
         "test_broadcast_weights"),
        ("a mean where the sum was asked for", "dist.all_reduce(parameter.grad)",
         "dist.all_reduce(parameter.grad.div_(2))", "test_sum_gradients_naive"),
        ("buckets in the order of the forward pass", "reversed(list(parameters))",
         "list(parameters)", "test_make_buckets"),
        ("the last bucket forgotten", "for bucket in buckets if bucket]",
         "for bucket in buckets[:-1]]", "test_make_buckets"),
        ("two bytes taken for four", "sum(p.nbytes for", "sum(4 * p.numel() for",
         "test_make_buckets"),
        ("buckets sent as they come, in another order on every rank",
         "not self.missing[self.n_sent]", "True", "test_in_turn"),
        ("double-counted accumulation: sent in every micro-batch", "        if not self.active:\n",
         "        if False:\n", "test_bucketed_equals_naive"),
        ("the sum left in the message", "parameter.grad = part.view_as(parameter)",
         "part.view_as(parameter)", "test_send"),
        ("a message for each parameter", "self.on_their_way.append(dist.all_reduce(flat, "
         "async_op=True).wait)", "[self.on_their_way.append(dist.all_reduce(p.grad, "
         "async_op=True).wait) for p in bucket]", "test_send"),
        ("the backward pass waits for each message", "self.on_their_way.append(dist.all_reduce("
         "flat, async_op=True).wait)", "dist.all_reduce(flat)", "test_send"),
        ("sums that begin when all gradients are there", "            self.sums.start()\n"
         "        loss.backward()\n", "            self.sums.start()\n            self.sums.active "
         "= False\n        loss.backward()\n", "test_backward"),
        ("each micro-batch summed by hand", "        elif last:\n", "        elif not self.sums:\n",
         "test_backward"),
    ],
    "07_scale/zero.py": [
        ("a remainder that belongs to nobody", "-(-sum(sizes) // world)", "sum(sizes) // world",
         "test_cut_anywhere"),
        ("every tensor begins at 0", "list(itertools.accumulate(sizes, initial=0))[:-1]",
         "[0] * len(sizes)", "test_cut_anywhere"),
        ("matrices cut across ranks", "    filled, positions =",
         "    return cut_anywhere(sizes, world)\n    filled, positions =", "test_deal_whole"),
        ("dealt as cards are, however large", "section = filled.index(min(filled))",
         "section = i % world", "test_deal_whole"),
        ("the smallest first", "key=lambda i: -sizes[i])", "key=lambda i: sizes[i])",
         "test_deal_whole"),
        ("sections of different lengths", "section * max(filled) + before for",
         "sum(filled[:section]) + before for", "test_deal_whole"),
        ("the sum of another rank's section",
         "        return dist.all_reduce(flat, async_op=True)\n",
         "        flat.copy_(flat.roll(len(flat) // dist.get_world_size()))\n        return "
         "dist.all_reduce(flat, async_op=True)\n", "test_sum_sections"),
        ("a mean where the sum was asked for",
         "        return dist.all_reduce(flat, async_op=True)\n",
         "        return dist.all_reduce(flat.div_(dist.get_world_size()), async_op=True)\n",
         "test_sum_sections"),
        ("twice the messages where a reduce-scatter would do", "    if not flat.is_cuda:\n",
         "    if True:\n", "test_sum_sections_on_a_gpu"),
        ("all sums in the section of rank 0", "[dist.get_rank()]", "[0]",
         "test_sum_sections_on_a_gpu"),
        ("the sum in a copy that nobody sees", "reduce_scatter_single(own, flat,",
         "reduce_scatter_single(own.clone(), flat,", "test_sum_sections_on_a_gpu"),
        ("double-counted accumulation: what was sent stays and is sent again",
         "            parameter.grad = None\n", "            pass\n",
         "test_gradients_that_are_left"),
        ("a micro-batch that replaces the sum of those before",
         "if shard.grad is None else shard.grad.add_(total)", "", "test_gradients_that_are_left"),
        ("a view that keeps the whole message in memory", "total.clone() if shard.grad",
         "total if shard.grad", "test_gradients_that_are_left"),
        ("each rank clips by the norm of its own section",
         "divided = True", "divided = False", "test_clip"),
        ("buckets that wait for others", "-order[bucket[-1]]", "-order[bucket[0]]",
         "test_buckets_follow_the_backward_pass"),
        ("the learning rate of the first step for ever",
         "            own[\"lr\"] = group[\"lr\"]\n", "            pass\n", "test_step"),
        ("each bucket waited for before the next one is sent",
         "[bucket.gather(bucket.weights) for bucket in self.buckets]:",
         "(bucket.gather(bucket.weights) for bucket in self.buckets):", "test_step"),
        ("steps that are not counted", "        self.steps += 1\n", "", "test_step"),
        ("moved weights that nobody else hears of",
         "for work in [bucket.gather(bucket.weights) for bucket in self.buckets]:",
         "for work in []:", "test_equals_one_process"),
        ("queries, keys and values orthogonalised as one matrix",
         "self.plain.parts[p] for shard, p", "[len(p)] for shard, p", "test_equals_one_process"),
        ("the bias correction begins again after a resume",
         "average.new_tensor(self.steps)", "average.new_tensor(0.0)",
         "test_a_checkpoint_does_not_know_how_many_ranks_wrote_it"),
        ("a checkpoint of rank 0's share", "            bucket.gather(flat).wait()\n", "",
         "test_a_checkpoint_does_not_know_how_many_ranks_wrote_it"),
    ],
    "07_scale/extras/precision.py": [
        ("clipped before it is unscaled",
         "        self.scaler.unscale_(self.engine.gradients())\n"
         "        self.norm = self.engine.clip(largest)\n",
         "        self.norm = self.engine.clip(largest)\n"
         "        self.scaler.unscale_(self.engine.gradients())\n",
         "test_a_scaled_loss_has_the_same_gradients"),
        ("a skipped step not told to the scaler", "update(not math.isfinite(self.norm))",
         "update(False)", "test_a_step_that_overflows_is_skipped_by_all"),
        ("a step in spite of an overflow", "        if math.isfinite(self.norm):\n",
         "        if True:\n", "test_a_step_that_overflows_is_skipped_by_all"),
        ("a bias of 2^exponent / 2", "2 ** (exponent - 1) - 1\n    spacing",
         "2 ** (exponent - 1)\n    spacing", "test_limits"),
        ("subnormals forgotten", "spacing * 2.0 ** (1 - bias), \"spacing\"",
         "2.0 ** (1 - bias), \"spacing\"", "test_limits"),
        ("inputs not rounded", "(t.to(dtype).float() for t in (x, weight, bias))",
         "(t.float() for t in (x, weight, bias))", "test_autocast_linear"),
        ("sums in float32 not rounded at the end", "return (x @ weight.t() + bias).to(dtype)",
         "return x @ weight.t() + bias", "test_autocast_linear"),
        ("rounded before the bias and after it", "return (x @ weight.t() + bias).to(dtype)",
         "return (x @ weight.t()).to(dtype) + bias.to(dtype)", "test_autocast_linear"),
        ("the bias not rounded", "(t.to(dtype).float() for t in (x, weight, bias))",
         "(*(t.to(dtype).float() for t in (x, weight)), bias)", "test_autocast_linear"),
        ("sums in 16 bits", "return (x @ weight.t() + bias).to(dtype)",
         "return sum(((x[..., i:i + 1] * weight[:, i]).to(dtype) for i in "
         "range(x.shape[-1])), bias.to(dtype))", "test_autocast_linear"),
        ("unscaled copies, not the gradients", "gradient.div_(self.factor)",
         "gradient = gradient / self.factor", "test_unscale_"),
        ("scaled once more", "gradient.div_(self.factor)", "gradient.mul_(self.factor)",
         "test_unscale_"),
        ("a scaler that never grows back", "self.factor, self.good = self.factor * 2, 0",
         "self.good = 0", "test_update"),
        ("a scale that doubles with every good step from then on",
         "self.factor, self.good = self.factor * 2, 0",
         "self.factor, self.good = self.factor * 2, self.good - 1", "test_update"),
        ("good steps counted over a bad one", "self.factor / 2, 0, self.skipped + 1",
         "self.factor / 2, self.good, self.skipped + 1", "test_update"),
        ("the same batch again under the same scale", "self.factor / 2, 0, self.skipped + 1",
         "self.factor, 0, self.skipped + 1", "test_update"),
        ("a scale that falls for ever", "if self.factor < FLOOR:", "if self.factor < 0:",
         "test_update_gives_up"),
        ("the state of good steps lost", "(\"factor\", \"good\", \"skipped\", \"steps\")}",
         "(\"factor\",)}", "test_state"),
    ],
    "07_scale/extras/recompute.py": [
        ("other numbers dropped the second time",
         "with torch.enable_grad(), restored(ctx.random, x.device), ctx.autocast():",
         "with torch.enable_grad(), ctx.autocast():", "test_backward_with_dropout"),
        ("the random state of after the block",
         "        ctx.random, ctx.autocast = random_state(x.device), same_autocast(x.device)\n"
         "        with ctx.autocast():\n            return block(x, *others)\n",
         "        ctx.autocast = same_autocast(x.device)\n        with ctx.autocast():\n      "
         "      y = block(x, *others)\n        ctx.random = random_state(x.device)\n        "
         "return y\n", "test_backward_with_dropout"),
        ("numbers that come twice after the backward pass",
         "    with torch.random.fork_rng([device] if device.type == \"cuda\" else []):\n",
         "    if True:\n", "test_backward_with_dropout"),
        ("recomputed under another autocast",
         "with torch.enable_grad(), restored(ctx.random, x.device), ctx.autocast():",
         "with torch.enable_grad(), restored(ctx.random, x.device):",
         "test_backward_under_autocast"),
        ("all that is inside is kept", "        with ctx.autocast():\n            return block",
         "        with ctx.autocast(), torch.enable_grad():\n            return block",
         "test_forward"),
        ("parameters forgotten, where x needs no gradient",
         "return Recompute.apply(forward, (angles, mask, cache), x, *block.parameters())",
         "return Recompute.apply(forward, (angles, mask, cache), x)", "test_recompute_blocks"),
        ("a cache given the same keys twice",
         "if cache is not None or not torch.is_grad_enabled():\n        return forward(x, "
         "angles, mask, cache)\n    return Recompute",
         "if not torch.is_grad_enabled():\n        return forward(x, angles, mask, cache)\n   "
         " return Recompute", "test_blocks_run_twice_only_for_gradients"),
    ],
    "07_scale/extras/plan.py": [
        ("ZeRO-1 divides the gradients too", '"zero1": ("optimizer",)',
         '"zero1": ("optimizer", "gradients")', "test_rank_states"),
        ("float32 masters forgotten", "8 * n - 4 * matrices + 4 * low * n", "8 * n - 4 * matrices",
         "test_rank_states"),
        ("Muon's average counted beside two moments", "8 * n - 4 * matrices + 4",
         "8 * n + 4 * matrices + 4", "test_rank_states"),
        ("what is divided counted whole",
         "(world if name in DIVIDED[engine] else 1))\n            for",
         "(1 if name in DIVIDED[engine] else 1))\n            for", "test_rank_states"),
        ("moments added up as if they came at once", "return sum(fullest(found).values())",
         "return sum(sum(items.values()) for items in found.values())", "test_fullest"),
        ("the largest micro-batch one power too large",
         "and needs(windows) <= room:", "and needs(fits) <= room:",
         "test_largest_micro_batch"),
        ("a micro-batch larger than a rank's share", "while windows <= most and", "while",
         "test_largest_micro_batch"),
    ],
    "07_scale/extras/simulate.py": [
        ("an all-reduce that only goes half the way", "return 2 * (ranks - 1) * (",
         "return (ranks - 1) * (", "test_ring_seconds"),
        ("the whole message in every round", "n_bytes / ranks / bandwidth", "n_bytes / bandwidth",
         "test_ring_seconds"),
        ("a round more than there are neighbours", "2 * (ranks - 1) * (latency",
         "2 * ranks * (latency", "test_ring_seconds"),
        ("latency paid once, not in every round", "(latency + n_bytes / ranks / bandwidth)",
         "(n_bytes / ranks / bandwidth) + latency", "test_ring_seconds"),
        ("a lane that does two things at once", "[free.get(lane, 0), *(", "[0, *(",
         "test_schedule"),
        ("a message sent while its gradients are computed", "*(times[i][1] for i in needs)",
         "*(times[i][0] for i in needs)", "test_schedule"),
        ("all lanes wait for each other", "[free.get(lane, 0), *(", "[*free.values(), 0, *(",
         "test_schedule"),
    ],
}


def code_files(folder):
    return [p for p in sorted((ROOT / folder).glob("*.py")) if not p.name.startswith("test_")]


@pytest.mark.parametrize("folder", FOLDERS)
def test_blanks_keep_everything_but_the_bodies(folder):
    for path in code_files(folder):
        source = path.read_text()
        if not exercises(source):
            assert blank(source) == source, path.name
            continue
        before, after = ast.parse(source), ast.parse(blank(source))
        marked = {node.lineno for node in exercises(source)}
        assert len(exercises(blank(source))) == len(marked)
        for node in exercises(blank(source)):
            assert ast.get_docstring(node), f"{path.name}: {node.name} has no task"
            assert ast.unparse(node.body[1:]) == (
                f"raise NotImplementedError('exercise: {node.title}')")
        for tree, lines in ((before, source), (after, blank(source))):
            for node in ast.walk(tree):
                if isinstance(node, ast.FunctionDef) and lines.splitlines()[
                        node.lineno - 1].endswith("# exercise"):
                    node.body = node.body[:1]
        assert ast.dump(before) == ast.dump(after), path.name


def test_there_are_enough():
    count = {stage: sum(len(exercises(path.read_text())) for path in code_files(stage))
             for stage in STAGES}
    assert sum(count.values()) >= 20 and min(count.values()) >= 2, count
    for stage in STAGES:
        assert sum(len(m) for f, m in MISTAKES.items() if f.startswith(stage)) >= 3, stage


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    return shutil.copytree(ROOT, tmp_path_factory.mktemp("copied") / "course",
                           ignore=shutil.ignore_patterns(".*", "data", "runs", "mine",
                                                         "__pycache__"))


@pytest.fixture
def course(copied):
    """A copy of the course without a mine/, for what writes into its root."""
    shutil.rmtree(copied / "mine", ignore_errors=True)
    return copied


def in_reading_order(files):
    """[(path, node)]: the files' exercises, in the order in which tests come to them."""
    files = sorted(files, key=lambda path: READING_ORDER.index(path.stem)
                   if path.stem in READING_ORDER else -1)
    return [(path, node) for path in files
            for node in sorted(exercises(path.read_text()), key=lambda node: node.lineno)]


class OneByOne:
    """A pytest plugin that works as a reader does: where a test is red because of the next of
    `todo`, [(path, node)], its body is written, and the test starts again. The session fails where
    another test is red.
    """

    def __init__(self, todo, mine):
        self.todo, self.mine, self.start = list(todo), mine, time.monotonic()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item, nextitem):
        while self.todo:
            reports = runtestprotocol(item, log=False, nextitem=nextitem)
            red = "".join(str(report.longrepr) for report in reports if report.failed)
            if not red:
                return True
            found, (path, node) = re.search(r"exercise: ([\w.]+)", red), self.todo[0]
            if not found or found[1] != node.title:
                item.session.shouldfail = f"{item.nodeid} before {node.title}: {red[-3000:]}"
                return True
            print(f"{time.monotonic() - self.start:.1f} s: {node.title}")
            item.session._setupstate.teardown_exact(None)  # what fixtures made with the old body
            self.write(path, node)
        item.session.shouldstop = "all are written"
        return True

    def write(self, path, node):
        """Write the next body: into the file, for what starts from it, and into the function."""
        self.todo.pop(0)
        source, missing = path.read_text(), {n.title for where, n in self.todo if where == path}
        kept = [n for n in exercises(source) if n.title not in missing]
        lines = source.splitlines()
        for n in kept:
            lines[n.lineno - 1] = lines[n.lineno - 1].replace("  # exercise", "")
        (self.mine / path.name).write_text(blank("\n".join(lines) + "\n"))
        codes = [compile(source, str(self.mine / path.name), "exec")]
        for code in codes:
            codes += [inner for inner in code.co_consts if isinstance(inner, types.CodeType)]
        code = next(code for code in codes if code.co_qualname == node.title)
        if path.stem in sys.modules:
            live = operator.attrgetter(node.title)(sys.modules[path.stem])
            inspect.unwrap(getattr(live, "fget", live)).__code__ = code


EXTRAS = [path for folder in FOLDERS if folder.endswith("extras") for path in code_files(folder)
          if exercises(path.read_text())]


@pytest.mark.slow
@pytest.mark.parametrize("what", STAGES + [p.relative_to(ROOT).as_posix() for p in EXTRAS])
def test_the_first_red_test_is_the_next_exercise(what, course, fork):
    """One body after the other is written, and each time the first red test is the next one's: of
    a whole stage's, or of an extra's, alone. (Of the quick tests: whole runs and many processes
    would take minutes.)
    """
    extra = ROOT / what in EXTRAS
    todo = in_reading_order([ROOT / what] if extra else code_files(what))
    tests = f"{os.path.dirname(what)}/test_{os.path.basename(what)}" if extra else what
    (course / "mine").mkdir()
    for path in {path for path, _ in todo}:
        (course / "mine" / path.name).write_text(blank(path.read_text()))

    def work():
        os.chdir(course)
        os.environ["PYTHONPATH"] = "mine"
        sys.path[:0] = [str(course), str(course / "mine")]
        plugin = OneByOne(todo, course / "mine")
        quick = ["--tb=line", "--assert=plain", "-p", "no:anyio", "-p", "no:unraisableexception"]
        pytest.main([tests, *quick, "-s", "-m", "not slow"], plugins=[plugin])
        sys.exit(len(plugin.todo))
    grading = fork(work, fresh=True)
    grading.join()
    assert grading.exitcode == 0, grading.log.read_text()[-4000:]


def test_blank_overwrites_nothing(course):
    blanking = [sys.executable, str(course / "tests" / "blank.py"), "01_tokenizer",
                "03_model/extras"]
    done = subprocess.run(blanking, cwd=course.parent, text=True, capture_output=True)
    files = list((course / "mine").iterdir())
    assert {"bpe.py", "family.py"} <= {file.name for file in files}, "mine/ is in the root"
    for file in files:
        file.write_text("# mine\n")
    again = subprocess.run(blanking, cwd=course.parent, text=True, capture_output=True)
    assert done.returncode == 0 and again.stdout.count("stays as it is") == len(files)
    assert all(file.read_text() == "# mine\n" for file in files), "what is there is the reader's"


def test_blank_refuses_what_is_no_stage():
    for arguments in (["09_nothing"], []):
        done = subprocess.run([sys.executable, str(ROOT / "tests" / "blank.py"), *arguments],
                              text=True, capture_output=True)
        assert done.returncode == 2 and done.stderr.startswith("error:"), done.stderr


def load(path, name, source):
    module = types.ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module
    exec(compile(source, str(path), "exec"), module.__dict__)
    return module


@contextlib.contextmanager
def as_if(path, source):
    """The tests of `path`, bound to a module made from another `source`."""
    test = path.with_name(f"test_{path.name}")
    names = (path.stem, f"{test.stem}_of_a_mistake")
    saved = {name: sys.modules.pop(name, None) for name in names}
    try:
        load(path, names[0], source)
        yield load(test, names[1], test.read_text())
    finally:
        for name, module in saved.items():
            sys.modules.pop(name, None)
            if module is not None:
                sys.modules[name] = module


def calls(test, tests, request):
    """Every call that pytest would make of a test function: parameters and fixtures filled in."""
    cases = [{}]
    for mark in getattr(test, "pytestmark", []):
        if mark.name == "parametrize":
            names = [n.strip() for n in mark.args[0].split(",")]
            rows = [row if len(names) > 1 else (row,) for row in mark.args[1]]
            cases = [case | dict(zip(names, row)) for case in cases for row in rows]
    for case in cases:
        missing = [name for name in inspect.signature(test).parameters if name not in case]
        fixtures = {name: inspect.unwrap(getattr(tests, name))() if hasattr(tests, name)
                    else request.getfixturevalue(name) for name in missing}
        yield lambda: test(**case, **fixtures)


ALL = [(file, *mistake) for file, mistakes in MISTAKES.items() for mistake in mistakes]


def in_words(error):
    """What a failed test says, if it says in words what is wrong, else "". A comparison alone, a
    name or a number does not, nor does an error of the code that is tested.
    """
    text = str(error) if isinstance(error, (AssertionError, pytest.fail.Exception)) else ""
    if "Traceback (most" in text:  # of another process, with what it said at the end
        text = "".join(re.findall(r"^(?:AssertionError|Failed): (.*)", text, re.MULTILINE)[-1:])
    said = text.strip().partition("\n")[0]
    bare = said.startswith(("assert ", "Tensor-likes are", "Not equal to", "DID NOT RAISE"))
    return said if len(re.findall("[A-Za-z]+", said)) >= 5 and not bare else ""


def test_in_words():
    process = "rank 0: Traceback (most recent call last):\n  File x, in y\n    assert a == b\n"
    for error, says in (
            (AssertionError("a sum over ranks, not a mean\nassert 3 == 4"), True),
            (AssertionError(process + "AssertionError: a sum over ranks, not a mean\n"), True),
            (AssertionError(), False), (AssertionError("step 3"), False),
            (AssertionError(process + "AssertionError\n"), False),
            (AssertionError(process + "IndexError: list index out of range here\n"), False),
            (AssertionError("Tensor-likes are not close!\n\nMismatched elements: 4"), False),
            (IndexError("an index that is out of range"), False)):
        assert bool(in_words(error)) == says, error


@pytest.mark.parametrize("file, what, right, wrong, test", ALL,
                         ids=[f"{m[0]}: {m[1]}" for m in ALL])
def test_mistakes_are_caught(file, what, right, wrong, test, request):
    path = ROOT / file
    source = path.read_text()
    assert source.count(right) == 1, f"{right!r} stands {source.count(right)} times in {file}"
    with as_if(path, source.replace(right, wrong)) as tests:
        caught = False
        for call in calls(getattr(tests, test), tests, request):
            try:
                call()
            except (Exception, pytest.fail.Exception) as error:
                caught, seen = True, error
                break
    assert caught, f"{test} passes although: {what}"
    assert in_words(seen), f"{test} fails, but doesn't say in words what is wrong: {seen!r}"


@pytest.mark.parametrize("file", MISTAKES)
def test_without_a_mistake_the_same_tests_pass(file, request):
    """Else a test that always fails would seem to catch everything."""
    path = ROOT / file
    with as_if(path, path.read_text()) as tests:
        for name in {mistake[3] for mistake in MISTAKES[file]}:
            made = [call() for call in calls(getattr(tests, name), tests, request)]
            assert made, f"{name} was never called"
