/**
 * Training byte-level BPE (Sennrich et al., "Neural machine translation of rare words with subword units",
 * 2016): the most frequent pair of neighbouring tokens becomes a token, again and again. Pair counts are
 * kept up to date merge by merge and the best pair comes from a heap, so the cost follows the number of
 * changed places and not the size of the text.
 */
import { DeepSpeedError } from '../../errors.ts';
import { byteAlphabet, toAlphabet } from './byte-alphabet.ts';
import { MaxHeap } from './max-heap.ts';
import { gpt2Pattern, isolate } from './pieces.ts';

/** How a tokenizer is trained. */
export interface TrainTokenizerOptions {
  /** Tokens in all: special ones, the 256 bytes, and the merges. Fewer when the text has no more pairs. */
  vocabSize: number;
  /** Pairs seen less often are not merged. Default 2. */
  minFrequency?: number;
  /** Ids 0, 1, ... in this order. Default: `<|endoftext|>`, which is also begin, end and unknown. */
  specialTokens?: readonly string[];
}

export interface TrainedBpe {
  /** Token (in the byte alphabet) → id. Special tokens first, then bytes, then merges in order. */
  vocab: Map<string, number>;
  /** Pairs of tokens, the most important first. */
  merges: [string, string][];
  specialTokens: readonly string[];
}

/** A pair of token ids as one number: ids stay below 2^21, so the product is exact. */
const pairBase = 2 ** 21;

interface Candidate {
  pair: number;
  count: number;
}

/**
 * Learns merges from texts. Deterministic: equal counts go to the pair of smaller ids, as Hugging Face
 * `tokenizers` decides.
 *
 * @throws TOKENIZER_INVALID when vocabSize has no room for the special tokens and the bytes, or a special
 *   token is ambiguous.
 */
export function trainBpe(texts: Iterable<string>, options: TrainTokenizerOptions): TrainedBpe {
  const { vocabSize, minFrequency = 2, specialTokens = ['<|endoftext|>'] } = options;
  if (typeof texts === 'string') {
    throw new DeepSpeedError(
      'ARGUMENTS_INVALID',
      'texts is one string, which would be taken letter by letter',
      { fix: 'Give a list of texts: [text].' },
    );
  }
  const smallest = specialTokens.length + byteAlphabet.length;
  if (!Number.isInteger(vocabSize) || vocabSize < smallest || vocabSize >= pairBase) {
    throw new DeepSpeedError(
      'TOKENIZER_INVALID',
      `vocabSize ${vocabSize}: expected a whole number from ${smallest} (special tokens and bytes)`,
      { fix: `Ask for at least ${smallest} tokens.` },
    );
  }
  const vocab = new Map<string, number>();
  for (const token of [...specialTokens, ...[...byteAlphabet].sort()]) {
    if (token === '' || vocab.has(token)) {
      throw new DeepSpeedError(
        'TOKENIZER_INVALID',
        `specialTokens: ${JSON.stringify(token)} is empty, given twice, or one of the 256 bytes`,
        { fix: 'Give each special token once, as a text that does not occur by itself.' },
      );
    }
    vocab.set(token, vocab.size);
  }
  const names = [...vocab.keys()];
  const pairs = new PairCounts(countPieces(texts), vocab);
  const merges: [string, string][] = [];
  while (names.length < vocabSize) {
    const best = pairs.takeBest();
    if (best === undefined || best.count < minFrequency) break;
    const left = Math.floor(best.pair / pairBase);
    const right = best.pair % pairBase;
    const name = names[left]! + names[right]!;
    // Two routes may lead to one string; it keeps its first id.
    const known = vocab.get(name);
    const id = known ?? names.push(name) - 1;
    vocab.set(name, id);
    merges.push([names[left]!, names[right]!]);
    pairs.merge(best.pair, id);
  }
  return { vocab, merges, specialTokens };
}

/** How often each piece occurs. */
function countPieces(texts: Iterable<string>): Map<string, number> {
  const counts = new Map<string, number>();
  for (const text of texts) {
    for (const piece of isolate(text, gpt2Pattern)) counts.set(piece, (counts.get(piece) ?? 0) + 1);
  }
  return counts;
}

/** Every distinct piece as token ids, and for each pair its count and the pieces that may contain it. */
class PairCounts {
  private readonly pieces: number[][] = [];
  private readonly weights: number[] = [];
  private readonly counts = new Map<number, number>();
  private readonly places = new Map<number, Set<number>>();
  private readonly heap = new MaxHeap<Candidate>(
    (a, b) => a.count > b.count || (a.count === b.count && a.pair < b.pair),
  );

  constructor(pieces: Map<string, number>, vocab: ReadonlyMap<string, number>) {
    for (const [piece, weight] of pieces) {
      const ids = Array.from(toAlphabet(piece), (character) => vocab.get(character)!);
      const index = this.pieces.push(ids) - 1;
      this.weights.push(weight);
      for (let i = 1; i < ids.length; i++) this.add(ids[i - 1]!, ids[i]!, weight, index);
    }
    for (const [pair, count] of this.counts) this.heap.push({ pair, count });
  }

  /** The most frequent pair. Heap entries age; one that is out of date goes back with its new count. */
  takeBest(): Candidate | undefined {
    for (;;) {
      const best = this.heap.pop();
      if (best === undefined) return undefined;
      const count = this.counts.get(best.pair) ?? 0;
      if (count === best.count) return best;
      if (count > 0) this.heap.push({ pair: best.pair, count });
    }
  }

  /** Replaces the pair by `id` in all pieces, left to right. */
  merge(pair: number, id: number): void {
    const left = Math.floor(pair / pairBase);
    const right = pair % pairBase;
    const touched = new Set<number>();
    for (const index of this.places.get(pair) ?? []) {
      const ids = this.pieces[index]!;
      const weight = this.weights[index]!;
      let length = 0;
      for (let i = 0; i < ids.length; i++) {
        if (ids[i] !== left || ids[i + 1] !== right) {
          ids[length++] = ids[i]!;
          continue;
        }
        // `ids[length - 1]` is the neighbour as it is now, perhaps the token just made.
        const before = length > 0 ? ids[length - 1] : undefined;
        const after = ids[i + 2];
        if (before !== undefined) {
          this.add(before, left, -weight, index);
          touched.add(this.add(before, id, weight, index));
        }
        if (after !== undefined) {
          this.add(right, after, -weight, index);
          touched.add(this.add(id, after, weight, index));
        }
        ids[length++] = id;
        i++;
      }
      ids.length = length;
    }
    this.counts.delete(pair);
    this.places.delete(pair);
    for (const changed of touched) {
      const count = this.counts.get(changed) ?? 0;
      if (count > 0) this.heap.push({ pair: changed, count });
    }
  }

  private add(left: number, right: number, weight: number, index: number): number {
    const pair = left * pairBase + right;
    this.counts.set(pair, (this.counts.get(pair) ?? 0) + weight);
    if (weight > 0) {
      const places = this.places.get(pair);
      if (places === undefined) this.places.set(pair, new Set([index]));
      else places.add(index);
    }
    return pair;
  }
}
