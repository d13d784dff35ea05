/** For the conformance suite: plain data parallelism. */
import { applyDataParallel } from '../../deepspeed.ts';
import type { StrategyPlugin } from '../../plugin.ts';

export const strategy = (): StrategyPlugin => ({ name: 'parallel', apply: applyDataParallel });
