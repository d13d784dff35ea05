import { randomBytes } from 'node:crypto';
import { rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { makeFolder } from '../../folders.ts';
import { DeepSpeedError } from '../../errors.ts';
import type { PendingCheckpoint, WrittenCheckpoint } from '../../hooks/index.ts';
import { isNativeError } from '../../native/native-error.ts';
import type { NativeAddon, WrittenFile } from '../../native/contract.ts';
import { agree, fromRankZero, type Peers } from '../agree.ts';
import { JointWork, type Parts } from '../joint-work.ts';
import { type FlatLayout, type Shard, tensorOf } from '../../layout.ts';
import type { BeingSaved } from '../being-saved.ts';
import { swapFailure } from '../offload/swap-failure.ts';
import { checkTag, latestFile, publish, sweep, temporaryFolder } from './folder.ts';
import { type Manifest, manifestVersion } from './manifest.ts';
import { seal } from './seal.ts';
import { type FlatTensor, shardFile } from './shard-file.ts';

export interface CheckpointContent {
  layout: FlatLayout;
  /** Layout of the tensor `frozen`; absent: not stored. */
  frozen?: FlatLayout;
  zeroStage: number;
  step: number;
  optimizer: Manifest['optimizer'];
  /** This rank's shard: `parameters`, then the optimizer states. */
  tensors: FlatTensor[];
  /** Stretches of the shard that are read one after the other, offsets relative to it. */
  stretches: readonly Shard[];
  /** Is told what has been read. */
  beingSaved: BeingSaved;
  /** JSON of the host and the plugins; rank 0's is stored. */
  state: Record<string, unknown>;
  createdBy: string;
  /** See CheckpointEvent. */
  onLoadable?: (() => Promise<void>) | undefined;
}

/**
 * Begins to write a checkpoint; every rank must call it. Each rank writes its shard into a temporary folder. When all
 * have, rank 0 adds the manifest and the folder gets its name by one rename; `latest` is updated last. A kill at any
 * moment leaves the previous checkpoint loadable, and a failure on one rank is the same error on all.
 */
export async function beginCheckpoint(
  addon: NativeAddon,
  peers: Peers,
  directory: string,
  tag: string,
  content: CheckpointContent,
): Promise<PendingCheckpoint> {
  checkTag(tag);
  const { rank } = peers.communicator;
  // The host's state goes on changing while shards are written.
  const state = JSON.parse(JSON.stringify(content.state)) as Record<string, unknown>;
  const nonce = await fromRankZero(peers, randomBytes(4).toString('hex'));
  const temporary = temporaryFolder(directory, tag, nonce);
  await removeUnless(temporary, rank, () =>
    agree(peers, async () => {
      if (rank !== 0) return;
      try {
        makeFolder(temporary);
      } catch (cause) {
        throw notWritable(directory, cause);
      }
    }),
  );
  const { groups, offsets } = shardFile(content.tensors, content.stretches);
  const file = `rank_${String(rank).padStart(5, '0')}.safetensors`;
  const withFix = (cause: unknown) => {
    const swap = swapFailure(cause);
    if (swap) throw swap;
    throw isNativeError(cause) && cause.code.startsWith('IO_')
      ? notWritable(directory, cause)
      : cause;
  };
  const { taken, written } = peers.engine.writeFile(join(temporary, file), groups);
  const own = content.layout.shards[rank]!;
  content.beingSaved.begin(
    taken[0]!,
    content.stretches.map(({ offset, count }, index) => ({
      range: { offset: own.offset + offset, count },
      read: taken[index + 1]!,
    })),
  );
  const shard = written.catch(withFix).finally(() => content.beingSaved.end());
  /** Rank 0 adds the manifest and gives the folder its name. */
  const complete = async (written: Written[]) => {
    const text = seal(addon, manifest(tag, { ...content, state }, written));
    await addon.writeFile(join(temporary, 'manifest.json'), [
      { fileOffset: 0, source: Buffer.from(text) },
    ]);
    // writeFile has synchronised the folder as well.
    await publish(temporary, directory, tag);
    await addon.fsyncDirectory(directory);
    await addon.writeFile(join(directory, latestFile), [
      { fileOffset: 0, source: Buffer.from(`${tag}\n`) },
    ]);
    await sweep(directory, tag);
    await content.onLoadable?.();
  };
  const joint = new JointWork(peers, parts());
  const read = () => peers.engine.wait(taken.at(-1)!).catch(() => {}); // the engine has gone
  const proceed = () =>
    removeUnless(temporary, rank, async () => (await joint.proceed())?.result ?? null);
  /** A rank without peers needs nobody to go on. */
  const endAlone = async () => {
    let loadable = null;
    while (!loadable) loadable = await proceed();
  };
  return {
    read,
    get isReady() {
      return joint.isReady;
    },
    proceed,
    async abandon() {
      await read();
      await (peers.communicator.size === 1 ? endAlone().catch(() => {}) : joint.ownPart());
    },
  };

  function* parts(): Parts<WrittenCheckpoint> {
    const shards = (yield shard.then((one) => ({ file, offsets, ...one }))) as Written[];
    yield rank === 0 ? complete(shards).catch(withFix) : Promise.resolve();
    return {
      folder: join(directory, tag),
      bytes: shards.reduce((sum, one) => sum + one.bytes, 0),
    };
  }
}

/** Runs `action`; where it fails nothing half-written stays. */
async function removeUnless<T>(
  temporary: string,
  rank: number,
  action: () => Promise<T>,
): Promise<T> {
  try {
    return await action();
  } catch (error) {
    if (rank === 0) await rm(temporary, { recursive: true, force: true }).catch(() => {});
    throw error;
  }
}

type Written = WrittenFile & { file: string; offsets: Record<string, number> };

function manifest(tag: string, content: CheckpointContent, written: readonly Written[]): Manifest {
  const { layout, frozen } = content;
  const slots = slotsOf(layout);
  const frozenSlots = frozen && slotsOf(frozen);
  return {
    format: 'deepspeed-js checkpoint',
    version: manifestVersion,
    createdBy: content.createdBy,
    tag,
    step: content.step,
    worldSize: written.length,
    zeroStage: content.zeroStage,
    optimizer: content.optimizer,
    layout: slots,
    total: layout.total,
    ...(frozenSlots && { frozen: frozenSlots }),
    shards: written.map(({ file, bytes, crc32c, offsets }, rank) => ({
      file,
      rank,
      ...layout.shards[rank]!,
      bytes,
      crc32c,
      tensors: offsets,
      ...(frozen && { frozen: frozen.shards[rank]! }),
    })),
    state: content.state,
  };
}

function slotsOf({ slots }: FlatLayout): Manifest['layout'] {
  return slots.map((slot) => {
    const { name, shape, start } = tensorOf(slot);
    const { offset, count, part } = slot;
    return { name, shape: [...shape], offset, count, ...(part && { start }) };
  });
}

/** Proves that a checkpoint directory can be written before hours of training depend on it. */
export async function checkWritable(directory: string): Promise<void> {
  try {
    makeFolder(directory);
    const probe = join(directory, `.writable-${randomBytes(4).toString('hex')}`);
    await writeFile(probe, '');
    await rm(probe);
  } catch (cause) {
    throw notWritable(directory, cause);
  }
}

function notWritable(directory: string, cause: unknown): DeepSpeedError {
  return new DeepSpeedError(
    'OUTPUT_NOT_WRITABLE',
    `the folder ${directory} cannot be written: ${(cause as Error).message}`,
    { cause, data: { directory } },
  );
}
