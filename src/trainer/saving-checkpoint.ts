import type { PendingCheckpoint } from '../hooks/index.ts';

/** Steps beside which a checkpoint is written: a run that fails then loses no more than theirs. */
const mostSteps = 3;

/** A checkpoint that is on its way to `folder`. */
export class SavingCheckpoint {
  readonly folder: string;
  readonly #pending: PendingCheckpoint;
  #isLoadable = false;
  #steps = 0;

  constructor(folder: string, pending: PendingCheckpoint) {
    this.folder = folder;
    this.#pending = pending;
  }

  /** See PendingCheckpoint. */
  read(): Promise<void> {
    return this.#pending.read();
  }

  get isReady(): boolean {
    return this.#pending.isReady;
  }

  /** And what is beyond `saveTotalLimit` has been deleted. */
  get isLoadable(): boolean {
    return this.#isLoadable;
  }

  /**
   * Collective. Goes on where nobody has to be waited for; what is not ready after the first step is done faster, and waited
   * for after the last.
   *
   * @param allReady what all ranks' `isReady` said
   */
  async afterStep(allReady: boolean): Promise<void> {
    this.#steps += 1;
    if (this.#steps >= mostSteps) await this.finish();
    else if (allReady) await this.#proceed();
    else void this.read();
  }

  /** See PendingCheckpoint. */
  abandon(): Promise<void> {
    return this.#pending.abandon();
  }

  async #proceed(): Promise<void> {
    if (!this.#isLoadable) this.#isLoadable = (await this.#pending.proceed()) !== null;
  }

  /** Collective. Waits until it is loadable. */
  async finish(): Promise<void> {
    if (!this.#isLoadable) await this.read();
    while (!this.#isLoadable) await this.#proceed();
  }
}
