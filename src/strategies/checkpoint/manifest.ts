import { z } from 'zod';
import { DeepSpeedError } from '../../errors.ts';

/**
 * What `manifest.json` in a tag folder says. The shards hold stretches of the flat buffer; `layout`
 * says which parameter lies where, so that a checkpoint can be read at another world size or stage.
 */
export const manifestVersion = 3;

/** From which version on a manifest has a checksum of its own; tensors by tiles came with 2. */
const sealedSince = 3;

const count = z.number().int().nonnegative();
const checksum = z.string().regex(/^[0-9a-f]{8}$/);
const bytesPerElement = 4;

const shardSchema = z.strictObject({
  file: z.string(),
  rank: count,
  /** Elements of the flat buffer. */
  offset: count,
  count,
  bytes: count,
  crc32c: checksum,
  /** Byte offset of each flat tensor in the file, by its name. */
  tensors: z.record(z.string(), count),
  /** Elements of the flat buffer of frozen parameters: its tensor `frozen`. */
  frozen: z.strictObject({ offset: count, count }).optional(),
});

const slotsSchema = z.array(
  z.strictObject({
    /** Name and shape of the whole tensor. */
    name: z.string(),
    shape: z.array(count),
    offset: count,
    count,
    /** Of a tensor that is moved by tiles: its element where this stretch begins; each tile has an entry. */
    start: count.optional(),
  }),
);

const manifestSchema = z.strictObject({
  format: z.literal('deepspeed-js checkpoint'),
  version: z.number().int(),
  createdBy: z.string(),
  tag: z.string(),
  step: count,
  worldSize: z.number().int().positive(),
  zeroStage: z.number().int().min(0).max(3),
  optimizer: z.strictObject({ kind: z.string(), step: count, states: z.array(z.string()) }),
  layout: slotsSchema,
  total: count,
  /** Parameters that training does not change; absent where they were left out, or there are none. */
  frozen: slotsSchema.optional(),
  shards: z.array(shardSchema).min(1),
  state: z.record(z.string(), z.unknown()),
  /** See seal.ts. Absent before version 3. */
  crc32c: checksum.optional(),
});

export type Manifest = z.infer<typeof manifestSchema>;
export type ManifestShard = z.infer<typeof shardSchema>;

/** Parses a manifest; `path` is for messages. */
export function parseManifest(text: string, path: string): Manifest {
  let raw: unknown;
  try {
    raw = JSON.parse(text);
  } catch (cause) {
    throw new DeepSpeedError(
      'CHECKPOINT_CORRUPT',
      `${path} is not JSON: it was cut short or edited`,
      {
        cause,
        data: { path },
      },
    );
  }
  const version = (raw as { version?: unknown } | null)?.version;
  if (typeof version === 'number' && version > manifestVersion) {
    throw new DeepSpeedError(
      'CHECKPOINT_VERSION',
      `${path} is of version ${version}; this deepspeed-js reads up to ${manifestVersion}`,
      { data: { path, version } },
    );
  }
  const parsed = manifestSchema.safeParse(raw);
  if (!parsed.success) {
    const issue = parsed.error.issues[0]!;
    throw new DeepSpeedError(
      'CHECKPOINT_CORRUPT',
      `${path} is not a valid manifest: ${issue.path.join('.') || 'root'}: ${issue.message}`,
      { data: { path } },
    );
  }
  const { layout, frozen, shards, optimizer, crc32c } = parsed.data;
  const [problem] = [
    ...(crc32c === undefined && parsed.data.version >= sealedSince
      ? ['it has no checksum of its own']
      : []),
    ...tensorProblems(shards, ['parameters', ...optimizer.states]),
    ...(frozen ? tensorProblems(shards, ['frozen']) : []),
    ...stretchProblems(layout),
    ...shardProblems(layout, shards),
    ...(frozen ? stretchProblems(frozen) : []),
    ...(frozen
      ? shardProblems(
          frozen,
          shards.flatMap((shard) => shard.frozen ?? []),
        )
      : []),
  ];
  if (problem !== undefined) {
    throw new DeepSpeedError('CHECKPOINT_CORRUPT', `${path}: ${problem}`, { data: { path } });
  }
  return parsed.data;
}

/** Tensors that a file lacks, or that end behind it. */
function tensorProblems(shards: readonly ManifestShard[], names: readonly string[]): string[] {
  return shards.flatMap(({ file, bytes, tensors, count, frozen }) =>
    names
      .filter((name) => {
        const elements = name === 'frozen' ? frozen?.count : count;
        const begin = tensors[name];
        if (begin === undefined || elements === undefined) return true;
        return begin + elements * bytesPerElement > bytes;
      })
      .map((name) => `${file} of ${bytes} bytes has no tensor ${name}`),
  );
}

/** Shards that do not lie back to back, and stretches that end behind them: what nobody has would stay unread. */
function shardProblems(
  slots: Manifest['layout'],
  shards: readonly Pick<ManifestShard, 'offset' | 'count'>[],
): string[] {
  let end = 0;
  for (const { offset, count } of shards.toSorted(
    (a, b) => a.offset - b.offset || a.count - b.count,
  )) {
    if (offset !== end) return [`after element ${end} of the shards comes element ${offset}`];
    end += count;
  }
  return slots
    .filter(({ offset, count }) => offset + count > end)
    .map(({ name }) => `${name} ends behind element ${end}, the last of the shards`);
}

/** Tensors whose stretches are not their elements, each once: some would stay unread, or be read twice. */
function stretchProblems(slots: Manifest['layout']): string[] {
  const ends = new Map<string, { end: number; whole: number }>();
  const problems: string[] = [];
  for (const { name, shape, count, start = 0 } of slots.toSorted(
    (a, b) => (a.start ?? 0) - (b.start ?? 0),
  )) {
    const end = ends.get(name)?.end ?? 0;
    if (start !== end) problems.push(`${name}: after element ${end} comes element ${start}`);
    const whole = shape.reduce((product, size) => product * size, 1);
    ends.set(name, { end: start + count, whole });
  }
  for (const [name, { end, whole }] of ends) {
    if (end !== whole)
      problems.push(`${name}: ${end} elements are laid out, its shape has ${whole}`);
  }
  return [...problems, ...overlaps(slots)];
}

/** Stretches of which one begins before another ends. */
function overlaps(slots: Manifest['layout']): string[] {
  let end = 0;
  const problems: string[] = [];
  for (const { name, offset, count } of slots.toSorted(
    (a, b) => a.offset - b.offset || a.count - b.count,
  )) {
    if (offset < end) problems.push(`${name} begins before element ${end}, where another one ends`);
    end = offset + count;
  }
  return problems;
}
