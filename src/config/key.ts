/**
 * The vocabulary of the config table: a key says its type, default, status and meaning in one place.
 * Validation, TypeScript types, `docs/deepspeed-keys.md` and the JSON Schema all derive from it, so
 * they cannot disagree.
 */
import { z } from 'zod';

/**
 * - `available`: does what DeepSpeed documents.
 * - `accepted`: taken, and without effect here; `note` says why nothing is lost.
 * - `ignored`: DeepSpeed documents it and ignores it too; one warning.
 * - `not yet`: refused by name unless it is at its default.
 * - `never`: refused by name for good; `note` says what to use.
 */
export type Status = 'available' | 'accepted' | 'ignored' | 'not yet' | 'never';

/** A leaf type: its check and the words for it in an error ("expected ..."). */
export interface ValueType<T> {
  readonly schema: z.ZodType<T>;
  readonly expects: string;
}

export interface Key<T = unknown> extends ValueType<T> {
  readonly kind: 'key';
  readonly default: T;
  readonly status: Status;
  readonly meaning: string;
  /** Why a key is accepted, ignored or never; or a difference from DeepSpeed. */
  readonly note?: string | undefined;
  /** Values of an available key that are refused as not available yet. */
  readonly later?: readonly unknown[] | undefined;
  /** Who replaces "auto". Absent: nobody does. */
  readonly autoFrom?: string | undefined;
}

export interface Section<K extends Keys = Keys> {
  readonly kind: 'section';
  readonly meaning: string;
  readonly keys: K;
  /** Absent from the file: null, nothing of it applies. Other sections are filled with their defaults. */
  readonly optional?: boolean;
}

/** `{ type, params }`: the type decides which params exist. Absent from the file: null. */
export interface Choice<V extends Variants = Variants> {
  readonly kind: 'choice';
  readonly meaning: string;
  readonly variants: V;
}

export interface Variant<K extends Keys = Keys> {
  readonly status: Status;
  readonly meaning: string;
  readonly params: K;
}

/**
 * A free-form section of a capability that does not exist yet: taken where it is switched off
 * (`enabled: false` throughout), refused as a whole otherwise.
 */
export interface Block {
  readonly kind: 'block';
  readonly meaning: string;
  readonly status: 'not yet' | 'never';
  readonly note?: string | undefined;
}

export type Entry = Key | Section | Choice | Block;
export type Keys = { readonly [name: string]: Entry };
export type Variants = { readonly [type: string]: Variant };

export type ValueOf<E> =
  E extends Key<infer T>
    ? T
    : E extends Section<infer K>
      ? ValuesOf<K> | (E extends { readonly optional: true } ? null : never)
      : E extends Choice<infer V>
        ? { [T in keyof V]: { type: T; params: ValuesOf<V[T]['params']> } }[keyof V] | null
        : E extends Block
          ? Record<string, unknown> | null
          : never;
export type ValuesOf<K extends Keys> = { -readonly [N in keyof K]: ValueOf<K[N]> };

// ---------------------------------------------------------------- leaf types

export const flag: ValueType<boolean> = { schema: z.boolean(), expects: 'true or false' };
export const text: ValueType<string> = { schema: z.string(), expects: 'a string' };
export const texts: ValueType<string[]> = {
  schema: z.array(z.string()),
  expects: 'a list of strings',
};
export const anything: ValueType<unknown> = { schema: z.unknown(), expects: 'any value' };
export const positiveInteger: ValueType<number> = {
  schema: z.int().positive(),
  expects: 'a whole number above 0',
};
export const wholeNumber: ValueType<number> = {
  schema: z.int().nonnegative(),
  expects: 'a whole number, 0 or more',
};
export const integer: ValueType<number> = { schema: z.int(), expects: 'a whole number' };
export const positive: ValueType<number> = {
  schema: z.number().positive(),
  expects: 'a number above 0',
};
export const nonNegative: ValueType<number> = {
  schema: z.number().nonnegative(),
  expects: 'a number, 0 or more',
};
/** At least one whole number, each 0 or more. */
export const wholeNumbers: ValueType<number[]> = {
  schema: z.array(z.int().nonnegative()).min(1),
  expects: 'a list of whole numbers, 0 or more',
};
export const positiveIntegers: ValueType<number[]> = {
  schema: z.array(z.int().positive()).min(1),
  expects: 'a list of whole numbers above 0',
};
/** A limit in elements; "no limit" is Python's largest integer, which is not exact here. */
export const limit: ValueType<number> = {
  schema: z.number().nonnegative(),
  expects: 'a whole number, 0 or more',
};
export const fraction: ValueType<number> = {
  schema: z.number().min(0).max(1),
  expects: 'a number from 0 to 1',
};
/** A probability that is not zero. */
export const positiveFraction: ValueType<number> = {
  schema: z.number().positive().max(1),
  expects: 'a number above 0, at most 1',
};
/** Decay rates of Adam and Lion: two numbers in [0, 1). */
export const betas: ValueType<[number, number]> = {
  schema: z.tuple([z.number().min(0).lt(1), z.number().min(0).lt(1)]),
  expects: 'two numbers from 0 up to, not including, 1',
};

/** One of a few literal values; strings are matched exactly, as DeepSpeed does. */
export function oneOf<const V extends string | number>(...values: V[]): ValueType<V> {
  const shown = values.map((value) => JSON.stringify(value));
  const last = shown.pop();
  return {
    schema: z.literal(values) as unknown as z.ZodType<V>,
    expects: shown.length === 0 ? `${last}` : `${shown.join(', ')} or ${last}`,
  };
}

/** One of a few words in any letter case; the value becomes the spelling given here. */
export function word<const V extends string>(...values: V[]): ValueType<V> {
  const { schema, expects } = oneOf(...values);
  const canonical = new Map(values.map((value) => [value.toLowerCase(), value]));
  return {
    schema: z.preprocess(
      (value) =>
        typeof value === 'string' ? (canonical.get(value.toLowerCase()) ?? value) : value,
      schema,
    ) as unknown as z.ZodType<V>,
    expects,
  };
}

// ---------------------------------------------------------------- table entries

interface Extra {
  note?: string;
  later?: readonly unknown[];
  autoFrom?: string;
}

/** A key whose default may be null, meaning "not given"; null is then valid in a file too. */
export function key<T, const D extends T | null>(
  status: Status,
  type: ValueType<T>,
  defaultValue: D,
  meaning: string,
  extra: Extra = {},
): Key<D extends null ? T | null : T> {
  const schema = defaultValue === null ? type.schema.nullable() : type.schema;
  return {
    kind: 'key',
    schema,
    expects: type.expects,
    default: defaultValue,
    status,
    meaning,
    ...extra,
  } as unknown as Key<D extends null ? T | null : T>;
}

export function available<T, const D extends T | null>(
  type: ValueType<T>,
  defaultValue: D,
  meaning: string,
  extra: Extra = {},
) {
  return key<T, D>('available', type, defaultValue, meaning, extra);
}

export function accepted<T, const D extends T | null>(
  type: ValueType<T>,
  defaultValue: D,
  meaning: string,
  note: string,
) {
  return key<T, D>('accepted', type, defaultValue, meaning, { note });
}

export function ignored<T, const D extends T | null>(
  type: ValueType<T>,
  defaultValue: D,
  meaning: string,
  note: string,
) {
  return key<T, D>('ignored', type, defaultValue, meaning, { note });
}

export function notYet<T, const D extends T | null>(
  type: ValueType<T>,
  defaultValue: D,
  meaning: string,
  note?: string,
) {
  return key<T, D>('not yet', type, defaultValue, meaning, note === undefined ? {} : { note });
}

export function section<K extends Keys>(meaning: string, keys: K): Section<K> {
  return { kind: 'section', meaning, keys };
}

/** A section whose presence switches it on. */
export function optionalSection<K extends Keys>(meaning: string, keys: K) {
  return { kind: 'section', meaning, keys, optional: true } as const;
}

export function choice<V extends Variants>(meaning: string, variants: V): Choice<V> {
  return { kind: 'choice', meaning, variants };
}

export function variant<K extends Keys>(status: Status, meaning: string, params: K): Variant<K> {
  return { status, meaning, params };
}

export function block(status: Block['status'], meaning: string, note?: string): Block {
  return { kind: 'block', status, meaning, note };
}
