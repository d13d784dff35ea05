import { strategyConformance } from './conformance.case.ts';

const module = (name: string) => new URL(`./testing/cases/${name}.ts`, import.meta.url);
const overlapping = { zero_optimization: { stage: 1, overlap_comm: true } };
const needsSegments = {
  capability: 'segments',
  key: 'zero_optimization.overlap_comm',
  config: overlapping,
} as const;

strategyConformance({ name: 'ddp', module: module('ddp') });

for (const stage of [0, 1, 2]) {
  strategyConformance({
    name: `deepspeed, stage ${stage}`,
    module: module('ours'),
    // Several buckets; at stage 2 they share windows.
    config: { zero_optimization: { stage, reduce_bucket_size: 100, allgather_bucket_size: 90 } },
    misspelt: [
      { config: { zero_optimization: { stagee: stage } }, key: 'zero_optimization.stagee' },
    ],
    needs: [needsSegments],
  });
}

strategyConformance({
  name: 'deepspeed, stage 3',
  module: module('ours'),
  // Of the parameters, two biases stay whole; one weight at a time is gathered ahead.
  config: {
    zero_optimization: {
      stage: 3,
      reduce_bucket_size: 100,
      stage3_param_persistence_threshold: 33,
      stage3_prefetch_bucket_size: 150,
      stage3_max_reuse_distance: 50,
    },
  },
  needs: [needsSegments, { capability: 'gatheredParameters', key: 'zero_optimization.stage' }],
});

strategyConformance({
  name: 'deepspeed, stage 2 in fp16, reducing at the boundary',
  module: module('ours'),
  config: {
    fp16: { enabled: true, initial_scale_power: 4 },
    zero_optimization: { stage: 2, reduce_at_boundary: true },
  },
});

strategyConformance({
  name: 'of a third party',
  module: module('third-party'),
  config: { counting: { every: 2 }, zero_optimization: { stage: 1 } },
  misspelt: [
    { config: { counting: { evry: 2 } }, key: 'counting.evry' },
    { config: { counting: { every: 0 } }, key: 'counting.every' },
  ],
  needs: [
    {
      capability: 'layerSkipping',
      key: 'counting.skip_layers',
      config: { counting: { every: 2, skip_layers: true } },
    },
  ],
});
