import { expect, it } from 'vitest';
import { SavingCheckpoint } from './saving-checkpoint.ts';

/** One that is loadable when it has proceeded twice. */
function begun() {
  const calls: string[] = [];
  const saving = new SavingCheckpoint('out', {
    isReady: false,
    read: async () => void calls.push('read'),
    abandon: async () => {},
    proceed: async () => {
      calls.push('proceed');
      return calls.filter((call) => call === 'proceed').length < 2
        ? null
        : { folder: 'out', bytes: 1 };
    },
  });
  return { saving, calls };
}

it('goes on after a step where all ranks are ready', async () => {
  const { saving, calls } = begun();
  await saving.afterStep(true);
  expect(saving.isLoadable).toBe(false);
  await saving.afterStep(true);
  expect(saving.isLoadable).toBe(true);
  await saving.finish();
  expect(calls).toEqual(['proceed', 'proceed']);
});

it('is done faster where one is not, and waited for after the third step', async () => {
  const { saving, calls } = begun();
  await saving.afterStep(false);
  await saving.afterStep(false);
  expect(calls).toEqual(['read', 'read']);
  await saving.afterStep(false);
  expect(saving.isLoadable).toBe(true);
  expect(calls.slice(2)).toEqual(['read', 'proceed', 'proceed']);
});
