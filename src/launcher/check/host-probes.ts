/**
 * Probes between machines. Each has an agent of its own, started on its own by ssh or srun, which takes orders over its
 * standard input: nothing of a probe depends on a machine outside it. (Small MPI jobs in the place of agents would:
 * mpirun starts nothing when one of its machines does not answer, and a pair takes it a second.)
 */
import { randomBytes } from 'node:crypto';
import { fileURLToPath } from 'node:url';
import type { ChosenHost } from '../hosts/filter.ts';
import { rankCount } from '../hosts/commands.ts';
import { addressTowards, type HostsPlan, isThisMachine } from '../hosts/launch-on-hosts.ts';
import { typescriptFlags } from '../script.ts';
import type { Order } from './agent-protocol.ts';
import { HostAgent } from './host-agent.ts';
import { LaunchedProbes } from './launched-probe.ts';
import type { Lost, Probe, ProbePlan, Probes } from './probes.ts';

export interface HostProbesOptions {
  plan: HostsPlan;
  /** For srun, or for ssh. */
  extra: readonly string[];
  /** Time limit of one probe. */
  probeMs: number;
}

export class HostProbes implements Probes {
  readonly names: readonly string[];
  readonly sharesCores = false;
  readonly #plan: HostsPlan;
  readonly #launched: LaunchedProbes;
  readonly #agents: readonly HostAgent[];
  readonly #probeMs: number;
  #orders = 0;

  /** Starts an agent on every host, and waits until each has come or is lost. */
  static async open(options: HostProbesOptions): Promise<HostProbes> {
    const { plan, probeMs } = options;
    const { hosts, linkTimeoutMs: patienceMs } = plan;
    const token = randomBytes(16).toString('hex');
    const here = hosts.some(({ name }) => isThisMachine(name)) ? await addressHere(hosts) : null;
    const agents = hosts.map(({ name }) => {
      const address = isThisMachine(name) ? here! : name;
      return new HostAgent({ ...agentCommand(name, options), name, address, token, patienceMs });
    });
    await Promise.all(agents.map(({ ready }) => ready));
    return new HostProbes(plan, agents, probeMs);
  }

  private constructor(plan: HostsPlan, agents: readonly HostAgent[], probeMs: number) {
    this.names = plan.hosts.map(({ name }) => name);
    this.#plan = plan;
    this.#agents = agents;
    this.#probeMs = probeMs;
    this.#launched = new LaunchedProbes(probeMs);
  }

  present(): number[] {
    return [...this.#agents.keys()].filter((member) => this.#agents[member]!.loss === null);
  }

  get lost(): Lost[] {
    return this.#agents.flatMap(({ loss }, member) => (loss === null ? [] : [{ member, ...loss }]));
  }

  measure(groups: readonly (readonly number[])[], plan: ProbePlan): Promise<Probe[]> {
    return Promise.all(groups.map((group) => this.#measureOne(group, plan)));
  }

  measureRun(members: readonly number[], plan: ProbePlan): Promise<Probe> {
    const hosts = members.map((member) => this.#plan.hosts[member]!);
    return this.#launched.measure({
      ranks: rankCount(hosts),
      cores: null,
      hosts: { ...this.#plan, hosts },
      plan,
    });
  }

  async close(): Promise<void> {
    this.#launched.close();
    await Promise.all(this.#agents.map((agent) => agent.close()));
  }

  async #measureOne(group: readonly number[], plan: ProbePlan): Promise<Probe> {
    const agents = group.map((member) => this.#agents[member]!);
    // In the order in which they come: the first is the cause of the others.
    const errors: string[] = [];
    const order: Omit<Order, 'me'> = {
      id: ++this.#orders,
      places: agents.map(({ place }) => place),
      plan,
      limitMs: this.#probeMs,
    };
    const answers = await Promise.all(
      agents.map(async (agent, me) => {
        const answer = await agent.ask({ ...order, me });
        const error = answer === null ? `${agent.name} was lost` : answer.error;
        if (error !== null && errors.push(error) === 1)
          for (const other of agents) other.abandon(order.id);
        return answer;
      }),
    );
    return errors.length > 0
      ? { readings: [], error: errors[0]! }
      : { readings: answers[0]!.readings, error: null };
  }
}

/** On the way to the first other machine that there is one to: the rest are lost anyway. */
async function addressHere(hosts: readonly ChosenHost[]): Promise<string> {
  for (const { name } of hosts) {
    if (isThisMachine(name)) continue;
    try {
      return await addressTowards(name);
    } catch {
      // Its own login says what is wrong with it.
    }
  }
  return '127.0.0.1';
}

function agentCommand(
  name: string,
  { plan: { kind, linkTimeoutMs: patienceMs }, extra }: HostProbesOptions,
): { program: string; words: string[] } {
  const script = fileURLToPath(new URL(`agent${import.meta.url.slice(-3)}`, import.meta.url));
  const node = [process.execPath, ...typescriptFlagsOf(script), script];
  if (kind === 'slurm') {
    const words = ['--nodes=1', '--ntasks=1', `--nodelist=${name}`, '--overlap', '--unbuffered'];
    return { program: 'srun', words: [...words, ...extra, ...node] };
  }
  if (isThisMachine(name)) return { program: node[0]!, words: node.slice(1) };
  // As mpirun reaches other machines.
  const [agent, ...agentWords] = (process.env.OMPI_MCA_plm_rsh_agent ?? '')
    .split(/\s+/)
    .filter(Boolean);
  const command = `cd ${quoted(process.cwd())} && exec ${node.map(quoted).join(' ')}`;
  if (agent !== undefined) return { program: agent, words: [...agentWords, name, command] };
  const patience = ['-o', 'BatchMode=yes', '-o', `ConnectTimeout=${Math.ceil(patienceMs / 1000)}`];
  return { program: 'ssh', words: [...patience, ...extra, name, command] };
}

function typescriptFlagsOf(script: string): string[] {
  return script.endsWith('.ts') ? typescriptFlags(script) : [];
}

/** For a shell. */
function quoted(word: string): string {
  return `'${word.replaceAll("'", "'\\''")}'`;
}
