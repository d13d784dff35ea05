import type { CheckpointEvent } from '../../hooks/index.ts';
import type { Shard } from '../../layout.ts';
import { type HeldPart, placesOf } from '../held.ts';
import type { LocalState } from '../local-state.ts';
import { subGroups } from '../offload/sub-groups.ts';
import type { StrategyContext } from '../plugin.ts';
import type { ZeroState } from '../zero/index.ts';
import { stateCount } from '../zero/recipe.ts';
import { locate } from './folder.ts';
import {
  checkSameModel,
  flatReads,
  frozenReads,
  type LoadTarget,
  openCheckpoint,
  readOver,
  readShards,
} from './load.ts';
import { localReads, startLocal } from './local.ts';
import { beginCheckpoint } from './save.ts';
import type { FlatTensor } from './shard-file.ts';
import { agreeOnTag } from './tag-validation.ts';

export { type StoredParameter, storedParameters } from './consolidate.ts';
export { latestTag, locate } from './folder.ts';
export { checkWritable } from './save.ts';

/** Elements of a shard that a background save reads together at most: an update waits for so many at a time. */
const mostTogether = 4 << 20;

/**
 * Saves and loads what a sharded session holds: parameters and optimizer states as flat shards, one
 * file a rank, so that saving is parallel and no rank gathers the model.
 */
export function applyCheckpoint(context: StrategyContext, zero: ZeroState): void {
  const { addon, communicator, layout, optimizer: recipe, lifecycle, engine } = context;
  const stateNames = Array.from({ length: stateCount(recipe) }, (_, index) => `state${index + 1}`);

  const subGroupSize = context.config?.zero_optimization.sub_group_size ?? mostTogether;
  const validation = context.config?.checkpoint.tag_validation ?? 'Warn';

  /** This rank's share of what training does not change. */
  const frozenTensor = (shard: Shard): FlatTensor => ({
    name: 'frozen',
    count: shard.count,
    places: placesOf(zero.frozen, shard).map(({ place }) => place),
    changedBy: null,
  });

  async function save(event: CheckpointEvent): Promise<void> {
    zero.weights.settle?.();
    await engine.idle();
    const tag = await agreeOnTag(context, event.tag, validation);
    const shard = layout.shards[communicator.rank]!;
    const frozen = event.excludeFrozenParameters ? undefined : context.frozen;
    // What every rank has is saved by shards, too: the files do not depend on the stage.
    const own = (name: string, parts: readonly HeldPart[]): FlatTensor => ({
      name,
      count: shard.count,
      places: placesOf(parts, shard).map(({ place }) => place),
      changedBy: 'update',
    });
    const pending = await beginCheckpoint(addon, context, event.directory, tag, {
      layout,
      ...(frozen && { frozen: frozen.layout }),
      zeroStage: zero.stage,
      step: Number(event.state.step ?? 0),
      optimizer: { kind: recipe.kind, step: zero.optimizer.step, states: stateNames },
      tensors: [
        own('parameters', zero.weights.stored),
        ...zero.optimizer.stored.map((parts, index) => own(stateNames[index]!, parts)),
        ...(frozen ? [frozenTensor(frozen.layout.shards[communicator.rank]!)] : []),
        ...zero.local.map(({ name, buffer, count }) => ({
          name,
          count,
          places: [{ buffer, byteOffset: 0, bytes: count * 4 }],
          changedBy: 'backward' as const,
        })),
      ],
      stretches: subGroups(shard.count, Math.min(subGroupSize, mostTogether), []),
      beingSaved: zero.beingSaved,
      state: event.state,
      createdBy: `deepspeed-js ${context.version}`,
      onLoadable: event.onLoadable,
    });
    if (event.background) {
      event.pending = pending;
      return;
    }
    let written = null;
    while (!written) written = await pending.proceed();
    event.written = written;
  }

  async function load(event: CheckpointEvent): Promise<void> {
    await engine.idle();
    const found = await locate(event.directory, event.tag);
    const checkpoint = await openCheckpoint(addon, context, found!.directory, found!.tag);
    checkSameModel(checkpoint, layout, context.frozen?.layout, {
      kind: recipe.kind,
      states: stateNames,
    });
    const targets: LoadTarget[] = [
      { tensor: 'parameters', parts: zero.weights.stored },
      ...zero.optimizer.stored.map((parts, index) => ({ tensor: stateNames[index]!, parts })),
    ];
    const { manifest } = checkpoint;
    // What is kept where a checkpoint lacks it lies in a tensor that all ranks' shards fill first.
    const isOver = ({ otherwise }: LocalState) => otherwise === 'kept';
    const ofItsOwn = zero.local.filter((state) => !isOver(state));
    const reads = [
      ...flatReads(manifest, layout, targets),
      ...(context.frozen ? frozenReads(manifest, context.frozen.layout, zero.frozen) : []),
      ...localReads(context, checkpoint, ofItsOwn),
    ];
    if (event.checkFirst) await readShards(addon, context, checkpoint, []);
    await readShards(addon, context, checkpoint, reads);
    const over = localReads(context, checkpoint, zero.local.filter(isOver));
    await readOver(addon, context, checkpoint, over);
    await startLocal(context, checkpoint, zero.local);
    zero.optimizer.restore(manifest.optimizer.step);
    const restored = zero.weights.restore();
    if (restored !== null) await engine.wait(restored);
    Object.assign(event.state, manifest.state);
    await engine.wait(engine.barrier());
  }

  lifecycle.tap('saveCheckpoint', 'compute', 'checkpoint.save', save);
  lifecycle.tap('loadCheckpoint', 'compute', 'checkpoint.load', load);
}
