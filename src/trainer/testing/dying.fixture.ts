/** A rank that throws after it has replied, one that never replies, and one that does nothing. */
export async function run(task: 'die' | 'wait' | 'live'): Promise<string> {
  if (task === 'wait') return new Promise(() => {});
  if (task === 'die')
    setTimeout(() => {
      throw new Error('too late');
    }, 0);
  return 'done';
}
