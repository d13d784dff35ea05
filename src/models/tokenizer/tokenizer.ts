/** Byte-level BPE at work: text to token ids and back, fast enough to build a data set with. */
import type { BpeDefinition } from './parse.ts';
import { fromAlphabet, toAlphabet } from './byte-alphabet.ts';
import { MaxHeap } from './max-heap.ts';
import { isolate } from './pieces.ts';

/** What training needs of a tokenizer; transformers.js's fit behind it too. */
export interface Tokenizer {
  /** The ids of a text, without tokens around it. Special tokens written in the text are recognised. */
  encode(text: string): number[];
  /** The text of ids. Bytes that are not UTF-8 become U+FFFD. */
  decode(ids: Iterable<number>, options?: { skipSpecialTokens?: boolean }): string;
  /** Highest id + 1. */
  readonly vocabSize: number;
  readonly eosTokenId: number | undefined;
}

const pairBase = 2 ** 21;

/** Words repeat, so their ids are kept; more than this many would only fill memory. */
const cacheEntries = 200_000;
const cachedLength = 64;

interface Merge {
  rank: number;
  id: number;
}

export class BpeTokenizer implements Tokenizer {
  readonly vocabSize: number;
  readonly eosTokenId: number | undefined;
  private readonly definition: BpeDefinition;
  private readonly merges = new Map<number, Merge>();
  private readonly added: ReadonlyMap<string, number>;
  private readonly addedPattern: RegExp | undefined;
  private readonly bytesOfId: (readonly number[] | undefined)[] = [];
  private readonly specialIds: ReadonlySet<number>;
  private readonly cache = new Map<string, readonly number[]>();

  constructor(definition: BpeDefinition, eosToken?: string) {
    this.definition = definition;
    const { vocab, addedTokens } = definition;
    const id = (token: string) => vocab.get(token)!;
    definition.merges.forEach(([left, right], rank) => {
      const pair = id(left) * pairBase + id(right);
      // The first of two equal merges counts.
      if (!this.merges.has(pair)) this.merges.set(pair, { rank, id: id(left + right) });
    });
    for (const [token, index] of vocab) this.bytesOfId[index] = fromAlphabet(token);
    for (const token of addedTokens) {
      this.bytesOfId[token.id] = [...new TextEncoder().encode(token.content)];
    }
    this.added = new Map(addedTokens.map((token) => [token.content, token.id]));
    this.addedPattern = anyOf([...this.added.keys()]);
    this.specialIds = new Set(addedTokens.filter((t) => t.special).map((t) => t.id));
    this.vocabSize = this.bytesOfId.length;
    this.eosTokenId =
      eosToken === undefined ? undefined : (this.added.get(eosToken) ?? vocab.get(eosToken));
  }

  encode(text: string): number[] {
    const ids: number[] = [];
    for (const part of this.addedPattern ? isolate(text, this.addedPattern) : [text]) {
      const known = this.added.get(part);
      if (known !== undefined) ids.push(known);
      else this.encodePlain(part, ids);
    }
    return ids;
  }

  decode(ids: Iterable<number>, options: { skipSpecialTokens?: boolean } = {}): string {
    const bytes: number[] = [];
    for (const id of ids) {
      if (options.skipSpecialTokens && this.specialIds.has(id)) continue;
      for (const byte of this.bytesOfId[id] ?? []) bytes.push(byte);
    }
    return new TextDecoder('utf-8', { ignoreBOM: true }).decode(Uint8Array.from(bytes));
  }

  private encodePlain(text: string, ids: number[]): void {
    if (text === '') return;
    const { normalizer, addPrefixSpace, patterns } = this.definition;
    const normal = normalizer === null ? text : text.normalize(normalizer);
    const start = addPrefixSpace && !normal.startsWith(' ') ? ` ${normal}` : normal;
    for (const piece of cut(start, patterns)) {
      for (const id of this.idsOfPiece(piece)) ids.push(id);
    }
  }

  private idsOfPiece(piece: string): readonly number[] {
    const cached = this.cache.get(piece);
    if (cached !== undefined) return cached;
    const ids = this.applyMerges(toAlphabet(piece));
    if (piece.length <= cachedLength) {
      if (this.cache.size >= cacheEntries) this.cache.clear();
      this.cache.set(piece, ids);
    }
    return ids;
  }

  /**
   * Repeats the lowest-ranked merge, leftmost first. Tokens are a linked list and candidates a heap, so a
   * piece of n bytes costs n log n, however long it is.
   */
  private applyMerges(characters: string): number[] {
    const { vocab, ignoreMerges } = this.definition;
    const whole = ignoreMerges ? vocab.get(characters) : undefined;
    if (whole !== undefined) return [whole];
    const ids = Array.from(characters, (character) => vocab.get(character)!);
    const next = ids.map((_, i) => i + 1);
    const previous = ids.map((_, i) => i - 1);
    const candidates = new MaxHeap<{ at: number; pair: number; merge: Merge }>((a, b) =>
      a.merge.rank !== b.merge.rank ? a.merge.rank < b.merge.rank : a.at < b.at,
    );
    const pairAt = (at: number) => ids[at]! * pairBase + ids[next[at]!]!;
    const propose = (at: number) => {
      if (at < 0 || next[at]! >= ids.length) return;
      const pair = pairAt(at);
      const merge = this.merges.get(pair);
      if (merge !== undefined) candidates.push({ at, pair, merge });
    };
    for (let i = 0; i < ids.length; i++) propose(i);
    for (let best = candidates.pop(); best !== undefined; best = candidates.pop()) {
      const { at, pair, merge } = best;
      // Skip candidates whose tokens have been merged since; a consumed token has id -1.
      if (ids[at] === -1 || next[at]! >= ids.length || pairAt(at) !== pair) continue;
      const consumed = next[at]!;
      ids[at] = merge.id;
      ids[consumed] = -1;
      next[at] = next[consumed]!;
      if (next[at]! < ids.length) previous[next[at]!] = at;
      propose(previous[at]!);
      propose(at);
    }
    return ids.filter((id) => id !== -1);
  }
}

function cut(text: string, patterns: readonly RegExp[]): Iterable<string> {
  return patterns.reduce<Iterable<string>>((pieces, pattern) => split(pieces, pattern), [text]);
}

function* split(pieces: Iterable<string>, pattern: RegExp): Generator<string> {
  for (const piece of pieces) yield* isolate(piece, pattern);
}

/** A pattern of literal strings, the longer ones first. */
function anyOf(strings: readonly string[]): RegExp | undefined {
  if (strings.length === 0) return undefined;
  const literals = [...strings]
    .sort((a, b) => b.length - a.length)
    .map((string) => string.replace(/[\\^$.*+?()[\]{}|/]/g, '\\$&'));
  return new RegExp(literals.join('|'), 'gu');
}
