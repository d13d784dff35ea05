/**
 * The optimizer's step of a shard whose states are on disk, while sub-group k is updated and its neighbours are
 * moved: seconds over those of the moving alone, or of the updates alone, whichever take longer. AdamW, 8 MiB
 * blocks of states, on the disk of SWAP_FOLDER (default: the working directory's). Where the disk is slower than the
 * update by far, overlap hardly shows: `balanced` repeats each update until it takes about as long as the moving.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { loadAddon, type Region, type SwapOptions } from '../src/native/index.ts';
import type { OffloadSettings } from '../src/strategies/offload/settings.ts';
import { SwapSpace } from '../src/strategies/offload/swap-space.ts';
import { SwappedUpdate } from '../src/strategies/offload/swapped-update.ts';
import { subGroups } from '../src/strategies/offload/sub-groups.ts';
import { type Split, SubGroupWalk } from '../src/strategies/offload/walk.ts';
import { type Bench, type BenchOptions, measure, type Report, type Subject, timed } from './lib.ts';

const elements = 32 << 20;
const subGroupSize = 2 << 20;
const threads = 2;
const aio: SwapOptions = {
  blockSize: 1 << 20,
  queueDepth: 8,
  threads: 1,
  singleSubmit: false,
  overlapEvents: true,
};
const adamw = {
  lr: 1e-4,
  beta1: 0.9,
  beta2: 0.999,
  eps: 1e-8,
  weightDecay: 0.1,
  biasCorrection: true,
};

async function run({ log }: BenchOptions): Promise<Report> {
  const folder = mkdtempSync(join(process.env.SWAP_FOLDER ?? '.', 'swap-overlap-'));
  const addon = loadAddon();
  const communicator = addon.createCommunicator({ backend: 'solo' });
  const engine = addon.createEngine({ communicator, threads });
  try {
    const array = (value: number): Region => {
      const buffer = engine.allocate(4 * elements, { category: 'optimizer' });
      const region: Region = { buffer, byteOffset: 0, count: elements, dtype: 'float32' };
      engine.waitSync(engine.fill(region, value));
      return region;
    };
    const [master, gradient] = [array(1e-3), array(1e-3)];
    const space = new SwapSpace({ addon, key: 'SWAP_FOLDER', folder, rank: 0, aio });
    const states = [0, 1].map(() => ({ tail: space.reserve('float32', 0, elements) }));
    await space.open({ engine, communicator });
    const { file } = states[0]!.tail;
    log(`${file.backend}, ${file.direct ? 'direct' : 'buffered'}`);

    const pipeline = (on: boolean): OffloadSettings => ({
      optimizer: {
        path: folder,
        ratio: 1,
        bufferCount: 4,
        pipelineRead: on,
        pipelineWrite: on,
      },
      parameters: null,
      subGroupSize,
      aio,
    });
    const ranges = [{ offset: 0, count: elements, group: 0 }];
    const swapped = (on: boolean) =>
      new SwappedUpdate({
        engine,
        settings: pipeline(on),
        tensors: { master: { head: master }, states },
        count: elements,
        ranges,
      });
    const [pipelined, inTurn] = [swapped(true), swapped(false)];
    const groups = subGroups(elements, subGroupSize, [0]);
    const options = { engine, groups, slots: 2, pipelineRead: true, pipelineWrite: true };
    const moving = new SubGroupWalk(options, states);
    const inMemory = [array(0), array(0)];
    const updating = new SubGroupWalk(options, []);
    let step = 0;
    const next = () => ({
      kind: 'adamw' as const,
      step: ++step,
      groups: [adamw],
      gradientScale: 1,
      maxNorm: 0,
    });
    const part = (
      region: Region,
      { offset, count }: { offset: number; count: number },
    ): Region => ({
      ...region,
      byteOffset: offset * 4,
      count,
    });
    const subject = (name: string, enqueue: () => number) => ({
      name,
      run: () => timed(() => engine.waitSync(enqueue())),
    });
    /** Walks through the sub-groups and updates each `times` times. */
    const walked = (walk: SubGroupWalk, states: readonly Split[], times: number) =>
      walk.run({
        reads: states,
        writes: states,
        after: [],
        visit: (group, at, after) => {
          const [state1, state2] =
            states.length > 0 ? states.map(at) : inMemory.map((state) => part(state, group));
          let work = 0;
          for (let turn = 0; turn < times; turn += 1) {
            const update = {
              ...next(),
              master: part(master, group),
              gradient: part(gradient, group),
              state1: state1!,
              state2: state2!,
              ranges: [{ offset: 0, count: group.count, group: 0 }],
            };
            work = engine.optimizerStep(update, after);
          }
          return work;
        },
      });
    const moved = () =>
      moving.run({
        reads: states,
        writes: states,
        after: [],
        visit: (group, _, after) => engine.fill(part(gradient, { ...group, count: 0 }), 0, after),
      });
    const figures: Report['figures'] = { elements, subGroupSize };
    const take = async (subjects: Subject[], rounds: number) => {
      const times = await measure(subjects, { warmup: 1, rounds });
      for (const [name, { median, spread }] of times) {
        figures[`${name} s`] = median;
        figures[`${name} spread`] = spread;
      }
      return (name: string) => times.get(name)!.median;
    };
    const seconds = await take(
      [
        subject('pipelined', () => pipelined.update(next(), { head: gradient }, [])),
        subject('in turn', () => inTurn.update(next(), { head: gradient }, [])),
        subject('moving alone', moved),
        subject('updating alone', () => walked(updating, [], 1)),
      ],
      7,
    );
    const bytes = 2 * 2 * 4 * elements;
    figures['moving alone GB/s'] = bytes / seconds('moving alone') / 1e9;
    const floor = Math.max(seconds('moving alone'), seconds('updating alone'));
    figures['in turn over the floor'] = seconds('in turn') / floor;

    const turns = Math.max(1, Math.round(seconds('moving alone') / seconds('updating alone')));
    figures['updates of a sub-group, balanced'] = turns;
    const serial = new SubGroupWalk(
      { ...options, pipelineRead: false, pipelineWrite: false },
      states,
    );
    const balanced = await take(
      [
        subject('balanced: pipelined', () => walked(moving, states, turns)),
        subject('balanced: in turn', () => walked(serial, states, turns)),
        subject('balanced: moving alone', moved),
        subject('balanced: updating alone', () => walked(updating, [], turns)),
      ],
      7,
    );
    const longer = Math.max(
      balanced('balanced: moving alone'),
      balanced('balanced: updating alone'),
    );
    figures['balanced: in turn over the longer'] = balanced('balanced: in turn') / longer;
    return {
      figures,
      aims: [
        {
          name: 'pipelined step over the longer of moving and updating',
          value: seconds('pipelined') / floor,
          op: '<=',
          aim: 1.15,
        },
        {
          name: 'the same where both take about as long',
          value: balanced('balanced: pipelined') / longer,
          op: '<=',
          aim: 1.15,
        },
      ],
    };
  } finally {
    engine.dispose();
    rmSync(folder, { recursive: true, force: true });
  }
}

export default {
  about: 'optimizer states on disk: a step over the longer of moving them and updating them',
  run,
} satisfies Bench;
