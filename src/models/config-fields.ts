/** Reading a Hugging Face config.json field by field, and collecting everything that is wrong with it. */
import { DeepSpeedError } from '../errors.ts';

export type Json = Record<string, unknown>;

/** Fields that every model type may carry and that never change what training computes. */
const neutralFields = [
  ...['architectures', 'auto_map', 'model_type', 'name_or_path'],
  ...['transformers_version', 'transformers.js_config', 'torch_dtype', 'dtype', 'torchscript'],
  ...['attn_implementation', 'use_cache'],
  ...['bos_token_id', 'eos_token_id', 'pad_token_id', 'sep_token_id', 'decoder_start_token_id'],
  ...['output_attentions', 'output_hidden_states', 'return_dict', 'return_dict_in_generate'],
  ...['output_scores', 'id2label', 'label2id', 'num_labels', 'finetuning_task', 'problem_type'],
  ...[
    'task_specific_params',
    'prefix',
    'tokenizer_class',
    'chunk_size_feed_forward',
    'use_bfloat16',
  ],
  ...['max_length', 'min_length', 'do_sample', 'temperature', 'top_k', 'top_p', 'typical_p'],
  ...['num_beams', 'num_beam_groups', 'diversity_penalty', 'early_stopping', 'length_penalty'],
  ...['repetition_penalty', 'no_repeat_ngram_size', 'encoder_no_repeat_ngram_size'],
  ...['num_return_sequences', 'bad_words_ids', 'forced_bos_token_id', 'forced_eos_token_id'],
  ...['remove_invalid_values', 'suppress_tokens', 'begin_suppress_tokens'],
  ...['exponential_decay_length_penalty', 'tf_legacy_loss'],
];

/** Fields of every model type that change the computation unless they have one of these values. */
const fixedFields: Record<string, readonly unknown[]> = {
  is_encoder_decoder: [false],
  add_cross_attention: [false],
  tie_encoder_decoder: [false],
  cross_attention_hidden_size: [null],
  quantization_config: [],
  pruned_heads: [{}, null],
};

/**
 * Takes the fields of one config. Every getter notes the field as known; `finish()` throws one
 * MODEL_CONFIG_INVALID with all the problems, unknown fields included.
 */
export class ConfigFields {
  readonly json: Json;
  private readonly where: string;
  private readonly known = new Set<string>(neutralFields);
  private readonly problems: string[] = [];

  /** `where` begins every message: the file, or the object inside it. */
  constructor(json: Json, where: string) {
    this.json = json;
    this.where = where;
    for (const [name, values] of Object.entries(fixedFields)) this.fixed(name, values);
  }

  /** A whole number of at least `min`; without a fallback the field is required. */
  count(name: string, fallback?: number, min = 1): number {
    return this.take(name, fallback, `a whole number of at least ${min}`, (value) =>
      Number.isInteger(value) && (value as number) >= min ? (value as number) : undefined,
    );
  }

  /** A finite number of at least `min`. */
  number(name: string, fallback?: number, min = 0): number {
    return this.take(name, fallback, `a number of at least ${min}`, (value) =>
      Number.isFinite(value) && (value as number) >= min ? (value as number) : undefined,
    );
  }

  /** A probability below 1. */
  ratio(name: string, fallback: number): number {
    return this.take(name, fallback, 'a number from 0 to below 1', (value) =>
      typeof value === 'number' && value >= 0 && value < 1 ? value : undefined,
    );
  }

  boolean(name: string, fallback: boolean): boolean {
    return this.take(name, fallback, 'true or false', (value) =>
      typeof value === 'boolean' ? value : undefined,
    );
  }

  oneOf<T extends string>(name: string, choices: readonly T[], fallback: T): T {
    return this.take(name, fallback, `one of ${choices.join(', ')}`, (value) =>
      choices.find((choice) => choice === value),
    );
  }

  object(name: string): Json | null {
    const value = this.json[name] ?? null;
    this.known.add(name);
    if (value === null) return null;
    if (typeof value === 'object' && !Array.isArray(value)) return value as Json;
    this.problem(name, value, 'an object');
    return null;
  }

  /** A field that may be absent but else must have one of these values: others are not implemented. */
  fixed(name: string, values: readonly unknown[]): void {
    this.known.add(name);
    const value = this.json[name];
    if (value === undefined || values.some((v) => JSON.stringify(v) === JSON.stringify(value)))
      return;
    const expected = values.map((v) => JSON.stringify(v)).join(' or ') || 'no such field';
    this.problem(name, value, `${expected} (other values are not available)`);
  }

  /** Fields without influence on training for this model type. */
  neutral(...names: string[]): void {
    for (const name of names) this.known.add(name);
  }

  /** A rule across fields. */
  check(holds: boolean, message: string): void {
    if (!holds) this.problems.push(message);
  }

  has(name: string): boolean {
    return this.json[name] !== undefined && this.json[name] !== null;
  }

  finish(): void {
    for (const name of Object.keys(this.json)) {
      // Names that begin with an underscore are transformers' own bookkeeping.
      if (!this.known.has(name) && !name.startsWith('_')) {
        this.problems.push(
          `${name}: this version does not know the field, and it may change the model`,
        );
      }
    }
    if (this.problems.length === 0) return;
    const list = this.problems.map((problem) => `\n  ${problem}`).join('');
    throw new DeepSpeedError('MODEL_CONFIG_INVALID', `${this.where} cannot be used:${list}`, {
      data: { problems: this.problems },
    });
  }

  private take<T>(
    name: string,
    fallback: T | undefined,
    expected: string,
    parse: (value: unknown) => T | undefined,
  ): T {
    this.known.add(name);
    const value = this.json[name];
    if (value === undefined || value === null) {
      if (fallback !== undefined) return fallback;
      this.problem(name, value, expected);
    } else {
      const parsed = parse(value);
      if (parsed !== undefined) return parsed;
      this.problem(name, value, expected);
    }
    // Reading goes on so that all problems are reported at once; `finish` throws before any use.
    return fallback as T;
  }

  private problem(name: string, value: unknown, expected: string): void {
    const got = value === undefined ? 'nothing' : JSON.stringify(value);
    this.problems.push(`${name}: got ${got}, expected ${expected}`);
  }
}
