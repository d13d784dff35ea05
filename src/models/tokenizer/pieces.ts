/** Cutting text into the pieces that BPE merges within. */

/**
 * GPT-2's pattern: English contractions, words, numbers and punctuation with the blank before them, then
 * blanks. Within JavaScript's idea of blanks, as transformers.js has it; Python's counts U+0085 too and
 * not U+FEFF.
 */
export const gpt2Pattern =
  /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+/gu;

/** The matches of a pattern and the text between them, in order: nothing is lost. */
export function* isolate(text: string, pattern: RegExp): Generator<string> {
  let end = 0;
  for (const match of text.matchAll(pattern)) {
    if (match[0].length === 0) continue;
    if (match.index > end) yield text.slice(end, match.index);
    yield match[0];
    end = match.index + match[0].length;
  }
  if (end < text.length) yield text.slice(end);
}
