import { type DeepSpeedConfig, explainConfig, renderExplanation } from '../config/index.ts';
import type { FlatLayout } from '../layout.ts';
import type { StrategyContext } from './plugin.ts';

/** DeepSpeed's `dump_state`: rank 0 prints the effective config and the shard table before training. */
export function applyDumpState(context: StrategyContext, config: DeepSpeedConfig): void {
  context.lifecycle.tap('setup', 'observe', 'dumpState.print', async () => {
    if (context.communicator.rank !== 0) return;
    for (const line of stateLines(config, context.layout)) console.log(line);
  });
}

function stateLines(config: DeepSpeedConfig, layout: FlatLayout): string[] {
  const { slots, shards, total, parameterCount } = layout;
  return [
    'effective config:',
    ...renderExplanation(explainConfig(config, { parameterCount })).map((line) => `  ${line}`),
    `flat buffer of ${total} elements, ${parameterCount} of them parameters:`,
    ...shards.map(({ offset, count }, rank) => `  rank ${rank} owns [${offset}, +${count})`),
    ...slots.map(
      ({ name, shape, offset, count, group }) =>
        `  ${name} [${shape.join(', ')}] at [${offset}, +${count}), group ${group}`,
    ),
  ];
}
