import { join } from 'node:path';
import { DeepSpeedError } from '../../errors.ts';
import { intersect, type Shard } from '../../layout.ts';
import type { NativeAddon } from '../../native/contract.ts';
import { locate, tagFolder } from './folder.ts';
import { checkShard, readManifest } from './load.ts';
import type { Manifest } from './manifest.ts';

/** A stretch of a parameter in a flat tensor of a shard file; counts are elements. */
export interface StoredPart {
  file: string;
  /** Name of the flat tensor. */
  tensor: string;
  /** In the flat tensor. */
  start: number;
  count: number;
}

/** A parameter of a checkpoint, fp32, as parts in order. */
export interface StoredParameter {
  name: string;
  shape: readonly number[];
  parts: StoredPart[];
}

/**
 * Finds every parameter in a checkpoint's shards, those that training did not change included. Lengths and
 * checksums of all files are checked first.
 *
 * @param directory of checkpoints, or of one tag
 * @throws CHECKPOINT_NOT_FOUND, CHECKPOINT_CORRUPT, CHECKPOINT_VERSION
 */
export async function storedParameters(
  addon: NativeAddon,
  directory: string,
  tag?: string,
): Promise<{ folder: string; manifest: Manifest; parameters: StoredParameter[] }> {
  const found = await locate(directory, tag);
  if (!found) {
    throw new DeepSpeedError('CHECKPOINT_NOT_FOUND', `there is no checkpoint in ${directory}`, {
      data: { directory },
    });
  }
  const folder = tagFolder(found.directory, found.tag);
  const manifest = await readManifest(addon, folder);
  for (const shard of manifest.shards) await checkShard(addon, folder, shard);
  const trained = manifest.shards.map((shard) => ({ ...shard, tensor: 'parameters' }));
  const frozen = manifest.shards.flatMap(({ file, frozen: stretch }) =>
    stretch ? [{ ...stretch, file, tensor: 'frozen' }] : [],
  );
  const partsOf = (slot: Shard, stretches: typeof frozen) =>
    stretches.flatMap(({ file, tensor, offset, count }) => {
      const part = intersect(slot, { offset, count });
      if (part.count === 0) return [];
      return [{ file: join(folder, file), tensor, start: part.offset - offset, count: part.count }];
    });
  const collect = (slots: Manifest['layout'], stretches: typeof frozen) => {
    const tensors = new Map<string, StoredParameter>();
    for (const slot of slots.toSorted((a, b) => (a.start ?? 0) - (b.start ?? 0))) {
      const { name, shape } = slot;
      const parts = [...(tensors.get(name)?.parts ?? []), ...partsOf(slot, stretches)];
      tensors.set(name, { name, shape, parts });
    }
    return [...tensors.values()];
  };
  const parameters = [
    ...collect(manifest.layout, trained),
    ...collect(manifest.frozen ?? [], frozen),
  ];
  return { folder, manifest, parameters };
}
