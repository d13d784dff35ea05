import { readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { DeepSpeedError } from '../../errors.ts';
import { type FlatLayout, intersect, type Shard, type Slot, tensorOf } from '../../layout.ts';
import type { FileTarget, NativeAddon } from '../../native/contract.ts';
import { agree, type Peers } from '../agree.ts';
import { type HeldPart, type Place, placesOf } from '../held.ts';
import { tagFolder } from './folder.ts';
import { type Manifest, type ManifestShard, parseManifest } from './manifest.ts';
import { brokenSeal } from './seal.ts';

const bytesPerElement = 4;

/** A flat tensor to fill: elements of the new flat layout. */
export interface LoadTarget {
  /** `parameters`, `state1`, ... */
  tensor: string;
  parts: readonly HeldPart[];
}

/** A checkpoint whose manifest is good and whose files have their lengths. */
export interface OpenCheckpoint {
  folder: string;
  manifest: Manifest;
}

/** Bytes of a shard file, and where they go. */
export interface ShardRead {
  /** Index into the manifest's shards. */
  shard: number;
  fileOffset: number;
  target: Place;
}

/** Opens a checkpoint on every rank. The same error is thrown on all ranks. */
export async function openCheckpoint(
  addon: NativeAddon,
  peers: Peers,
  directory: string,
  tag: string,
): Promise<OpenCheckpoint> {
  const [opened] = await agree(peers, async () => {
    const folder = tagFolder(directory, tag);
    const manifest = await readManifest(addon, folder);
    for (const shard of manifest.shards) await checkLength(folder, shard);
    return { folder, manifest };
  });
  return opened!;
}

/**
 * Reads shards and checks their checksums by the way, in one pass; the ranks share the checking. A file that only others
 * check is read where it is needed. The same error is thrown on all ranks; some of the targets have been filled then.
 */
export async function readShards(
  addon: NativeAddon,
  peers: Peers,
  { folder, manifest }: OpenCheckpoint,
  reads: readonly ShardRead[],
): Promise<void> {
  const { rank, size: ranks } = peers.communicator;
  await agree(peers, async () => {
    for (const [index, shard] of manifest.shards.entries()) {
      const targets = reads.filter((read) => read.shard === index);
      if (index % ranks === rank) await readChecked(addon, folder, shard, targets);
      else if (targets.length > 0) await addon.readFile(join(folder, shard.file), targets);
    }
  });
}

/** Reads once more of files that `readShards` has checked, for what lies over what it has filled. */
export async function readOver(
  addon: NativeAddon,
  peers: Peers,
  { folder, manifest }: OpenCheckpoint,
  reads: readonly ShardRead[],
): Promise<void> {
  await agree(peers, async () => {
    for (const read of reads) {
      await addon.readFile(join(folder, manifest.shards[read.shard]!.file), [read]);
    }
  });
}

/** @throws CHECKPOINT_CORRUPT, CHECKPOINT_VERSION */
export async function readManifest(addon: NativeAddon, folder: string): Promise<Manifest> {
  const path = join(folder, 'manifest.json');
  const text = await readFile(path, 'utf8').catch((cause) => {
    throw corrupt(`${path} cannot be read: ${cause.message}`, path);
  });
  const manifest = parseManifest(text, path);
  const broken = manifest.crc32c === undefined ? null : brokenSeal(addon, text);
  if (broken !== null) throw corrupt(`${path}: ${broken}`, path);
  return manifest;
}

/** Throws CHECKPOINT_CORRUPT unless the file has the length and the bytes that were written. */
export async function checkShard(
  addon: NativeAddon,
  folder: string,
  shard: ManifestShard,
): Promise<void> {
  await checkLength(folder, shard);
  await readChecked(addon, folder, shard, []);
}

async function checkLength(folder: string, shard: ManifestShard): Promise<void> {
  const file = join(folder, shard.file);
  const size = await stat(file).then(
    (entry) => entry.size,
    () => -1,
  );
  if (size < 0) throw corrupt(`shard ${shard.file} of ${folder} is missing`, file);
  if (size !== shard.bytes) {
    throw corrupt(`${file} has ${size} bytes, the manifest says ${shard.bytes}`, file);
  }
}

async function readChecked(
  addon: NativeAddon,
  folder: string,
  shard: ManifestShard,
  targets: readonly FileTarget[],
): Promise<void> {
  const file = join(folder, shard.file);
  const crc = await addon.readWholeFile(file, targets);
  if (crc !== shard.crc32c) {
    throw corrupt(`${file} has checksum ${crc}, the manifest says ${shard.crc32c}`, file);
  }
}

/** Throws, listing every difference, unless the checkpoint is of this model and optimizer. */
export function checkSameModel(
  { folder, manifest }: OpenCheckpoint,
  layout: FlatLayout,
  frozen: FlatLayout | undefined,
  optimizer: { kind: string; states: readonly string[] },
): void {
  const differences = slotDifferences(layout.slots, manifest.layout, '');
  if (manifest.frozen) {
    differences.push(
      ...slotDifferences(frozen?.slots ?? [], manifest.frozen, ' among those not trained'),
    );
  }
  if (manifest.optimizer.kind !== optimizer.kind) {
    differences.push(
      `optimizer: this run uses ${optimizer.kind}, the checkpoint ${manifest.optimizer.kind}`,
    );
  } else if (manifest.optimizer.states.join() !== optimizer.states.join()) {
    differences.push(
      `optimizer states: this run keeps [${optimizer.states}], the checkpoint [${manifest.optimizer.states}]`,
    );
  }
  if (differences.length === 0) return;
  const shown = differences.slice(0, 20);
  if (differences.length > shown.length)
    shown.push(`... ${differences.length - shown.length} more`);
  throw new DeepSpeedError(
    'CHECKPOINT_OTHER_MODEL',
    `${folder} was written by another model or optimizer:\n  ${shown.join('\n  ')}`,
    { data: { folder, differences } },
  );
}

function slotDifferences(
  slots: readonly Slot[],
  storedSlots: Manifest['layout'],
  where: string,
): string[] {
  const differences: string[] = [];
  const stored = new Map(storedSlots.map((slot) => [slot.name, slot]));
  const tensors = new Map(slots.map(tensorOf).map((tensor) => [tensor.name, tensor]));
  for (const { name, shape } of tensors.values()) {
    const other = stored.get(name);
    if (!other) {
      differences.push(`${name} ${shapeText(shape)}: not in the checkpoint${where}`);
    } else if (shapeText(other.shape) !== shapeText(shape)) {
      differences.push(
        `${name}: the model has ${shapeText(shape)}, the checkpoint ${shapeText(other.shape)}`,
      );
    }
    stored.delete(name);
  }
  for (const { name, shape } of stored.values()) {
    differences.push(`${name} ${shapeText(shape)}: not in the model${where}`);
  }
  return differences;
}

/**
 * What fills the frozen parameters. A checkpoint without them (they were left out, or an older version wrote
 * it) leaves the model's own values, as DeepSpeed does.
 */
export function frozenReads(
  manifest: Manifest,
  layout: FlatLayout,
  parts: readonly HeldPart[],
): ShardRead[] {
  if (!manifest.frozen) return [];
  // The same files, seen as shards of the other flat buffer.
  const shards = manifest.shards.map((shard) => ({ ...shard, ...shard.frozen! }));
  return flatReads({ layout: manifest.frozen, shards }, layout, [{ tensor: 'frozen', parts }]);
}

/** What fills the targets, whatever world size and stage wrote the files: parameters are matched by name. */
export function flatReads(
  stored: Pick<Manifest, 'layout' | 'shards'>,
  layout: FlatLayout,
  targets: readonly LoadTarget[],
): ShardRead[] {
  const stretches = layout.slots.flatMap((slot) => commonStretches(slot, stored.layout));
  const reads: ShardRead[] = [];
  for (const { tensor, parts } of targets) {
    for (const { stretch, moved } of stretches) {
      for (const [shard, { offset, count, tensors }] of stored.shards.entries()) {
        const piece = intersect(stretch, { offset: offset - moved, count });
        for (const { range, place } of placesOf(parts, piece)) {
          const element = range.offset + moved - offset;
          const fileOffset = tensors[tensor]! + element * bytesPerElement;
          reads.push({ shard, fileOffset, target: place });
        }
      }
    }
  }
  return reads;
}

/**
 * Where the elements of a slot are among those that were written: as one stretch, or several where either side
 * has the tensor in tiles.
 *
 * @returns stretches of this layout, and how far away from them the written ones are
 */
function commonStretches(
  slot: Slot,
  stored: Manifest['layout'],
): { stretch: Shard; moved: number }[] {
  const { name, start } = tensorOf(slot);
  return stored
    .filter((other) => other.name === name)
    .flatMap(({ offset, count, start: first = 0 }) => {
      const own = { offset: start, count: slot.count };
      const common = intersect(own, { offset: first, count });
      if (common.count === 0) return [];
      const begin = slot.offset + common.offset - start;
      const moved = offset + common.offset - first - begin;
      return [{ stretch: { offset: begin, count: common.count }, moved }];
    });
}

function corrupt(message: string, path: string): DeepSpeedError {
  return new DeepSpeedError('CHECKPOINT_CORRUPT', message, { data: { path } });
}

function shapeText(shape: readonly number[]): string {
  return `[${shape.join(', ')}]`;
}
