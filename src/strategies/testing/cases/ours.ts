/** For the conformance suite: our strategies by module. */
import { applyDeepSpeed } from '../../deepspeed.ts';
import type { StrategyPlugin } from '../../plugin.ts';

export const strategy = (): StrategyPlugin => ({ name: 'composed', apply: applyDeepSpeed });
