import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { commandLine, type Job, launcherKind, unlabel } from './commands.ts';
import { forwardedVariables, parseVariables } from './environment-file.ts';
import { type ChosenHost, chooseHosts, type HostFilter } from './filter.ts';
import { type Host, parseHostfile, readHostfile } from './hostfile.ts';

const none: HostFilter = { include: null, exclude: null, numNodes: null, numProcs: null };
const three: Host[] = [
  { name: 'worker-0', slots: 2 },
  { name: 'worker-1', slots: 4 },
  { name: 'worker-2', slots: 1 },
];
const spell = (chosen: ChosenHost[]) =>
  chosen.map(({ name, slots }) => `${name}:${slots}`).join(' ');

/** Host files as people write them, with what they mean. */
const someHosts = fc
  .uniqueArray(fc.stringMatching(/^[a-z][a-z0-9.-]{0,9}$/), { minLength: 1, maxLength: 6 })
  .chain((names) =>
    fc.tuple(
      ...names.map((name) =>
        fc.record({ name: fc.constant(name), slots: fc.integer({ min: 1, max: 9 }) }),
      ),
    ),
  );

describe('the hostfile', () => {
  it('is read as it was written, whatever blanks and comments it has', () => {
    const filler = fc.constantFrom('', '   ', '# all of rack 3', '\t# x slots=1');
    fc.assert(
      fc.property(
        someHosts,
        fc.array(filler),
        fc.constantFrom('\n', '\r\n'),
        (hosts, fillers, end) => {
          const lines = hosts.flatMap(({ name, slots }, index) => [
            fillers[index] ?? '',
            `${index % 2 ? '  ' : ''}${name} \t slots=${slots}${index % 3 ? '' : '  # fast'}`,
          ]);
          expect(parseHostfile(lines.join(end), 'hosts')).toEqual(hosts);
        },
      ),
    );
  });

  it.each([
    ['a slots=1\nb', 'hosts, line 2: got "b", expected HOST slots=N'],
    ['a slots=1\n\nb slot=2', 'hosts, line 3: got "b slot=2"'],
    ['a slots=-1', 'hosts, line 1'],
    ['a slots=2 extra', 'hosts, line 1: got "a slots=2 extra"'],
    ['# none\na slots=0', 'hosts, line 2: a has slots=0'],
    ['a slots=1\nb slots=1\na slots=3', 'hosts, line 3: a is listed twice, first on line 1'],
    ['a:0 slots=1', 'hosts, line 1: "a:0" is not a name'],
    ['-oProxyCommand=x slots=1', 'hosts, line 1: "-oProxyCommand=x" is no name'],
    ['a slots=99999999999', 'hosts, line 1: a has slots=99999999999, at most 65536'],
    ['# nothing\n\n', 'hosts lists no host'],
  ])('%j is refused', (text, message) => {
    expect(() => parseHostfile(text, 'hosts')).toThrow(
      expect.objectContaining({
        code: 'HOSTFILE_INVALID',
        message: expect.stringContaining(message),
      }),
    );
  });

  it('must exist when it was named', () => {
    expect(() => readHostfile('/no/such/hosts')).toThrow('cannot read the hostfile /no/such/hosts');
  });
});

describe('choosing hosts', () => {
  it.each([
    [{}, 'worker-0:0,1 worker-1:0,1,2,3 worker-2:0'],
    [{ numNodes: 2 }, 'worker-0:0,1 worker-1:0,1,2,3'],
    [{ numNodes: 2, numProcs: 2 }, 'worker-0:0,1 worker-1:0,1'],
    [{ include: 'worker-1:3,0' }, 'worker-1:0,3'],
    [{ include: 'worker-2@worker-0' }, 'worker-0:0,1 worker-2:0'],
    [{ include: 'worker-1:0@worker-1:2' }, 'worker-1:0,2'],
    [{ include: 'worker-1:0@worker-1' }, 'worker-1:0,1,2,3'],
    [{ exclude: 'worker-1:0,2' }, 'worker-0:0,1 worker-1:1,3 worker-2:0'],
    [{ exclude: 'worker-0@worker-2:0' }, 'worker-1:0,1,2,3'],
  ] as [Partial<HostFilter>, string][])('%j', (filter, expected) => {
    expect(spell(chooseHosts(three, { ...none, ...filter }))).toBe(expected);
  });

  it.each([
    [
      { include: 'worker-3' },
      '--include names worker-3, which is not in the hostfile; did you mean worker-0?',
    ],
    [{ exclude: 'gpu' }, '--exclude names gpu, which is not in the hostfile'],
    [{ include: 'worker-0:2' }, '--include names slot 2 of worker-0, which has slots=2'],
    [{ include: 'worker-0:' }, '--include got "worker-0:", expected HOST or HOST:SLOT,SLOT'],
    [{ include: '' }, '--include got ""'],
    [{ include: 'worker-0:1,,2' }, 'expected HOST or HOST:SLOT,SLOT'],
    [{ exclude: 'worker-0@worker-1@worker-2' }, 'leaves no slot of any host'],
    [{ include: 'worker-0', exclude: 'worker-1' }, '--include cannot be combined with --exclude'],
    [{ exclude: 'worker-0', numNodes: 1 }, '--exclude cannot be combined with --num_nodes'],
    [{ numNodes: 4 }, '--num_nodes is 4, the hostfile has 3 hosts'],
    [{ numProcs: 2 }, '--num_procs is 2, the hostfile gives worker-2 slots=1'],
  ] as [Partial<HostFilter>, string][])('%j is refused', (filter, message) => {
    expect(() => chooseHosts(three, { ...none, ...filter })).toThrow(
      expect.objectContaining({
        code: 'LAUNCHER_USAGE',
        message: expect.stringContaining(message),
      }),
    );
  });

  it('including and excluding the same part the hosts in two', () => {
    fc.assert(
      fc.property(someHosts, fc.infiniteStream(fc.boolean()), (hosts, coins) => {
        const all = hosts.flatMap(({ name, slots }) =>
          Array.from({ length: slots }, (_, slot) => ({ name, slot })),
        );
        const picked = all.filter(() => coins.next().value);
        fc.pre(picked.length > 0 && picked.length < all.length);
        const text = picked.map(({ name, slot }) => `${name}:${slot}`).join('@');
        const flat = (chosen: ChosenHost[]) =>
          chosen.flatMap(({ name, slots }) => slots.map((slot) => ({ name, slot })));
        expect(flat(chooseHosts(hosts, { ...none, include: text }))).toEqual(picked);
        expect(flat(chooseHosts(hosts, { ...none, exclude: text }))).toEqual(
          all.filter((place) => !picked.includes(place)),
        );
      }),
    );
  });
});

describe('the environment of other machines', () => {
  it('is what .deepspeed_env says, the working folder over the home folder, over what is forwarded', () => {
    const home = mkdtempSync(join(tmpdir(), 'dsjs-env-'));
    const work = mkdtempSync(join(tmpdir(), 'dsjs-env-'));
    try {
      writeFileSync(join(home, '.deepspeed_env'), '# proxies\nA=1\nNODE_OPTIONS=--x\n');
      writeFileSync(join(work, '.deepspeed_env'), 'A=two = 2\n\nB=\n');
      expect(
        forwardedVariables({ NODE_OPTIONS: '--y', UCX_TLS: 'tcp', PATH: '/bin' }, [home, work]),
      ).toEqual({
        NODE_OPTIONS: '--x',
        UCX_TLS: 'tcp',
        A: 'two = 2',
        B: '',
      });
      writeFileSync(join(work, 'other'), 'C=3\n');
      expect(forwardedVariables({ DS_ENV_FILE: join(work, 'other') }, [home, work])).toEqual({
        C: '3',
      });
    } finally {
      for (const folder of [home, work]) rmSync(folder, { recursive: true });
    }
  });

  it('names the line that is no variable', () => {
    expect(() => parseVariables('A=1\nexport B=2', 'f')).toThrow(
      'f, line 2: got "export B=2", expected KEY=VALUE',
    );
  });
});

describe('the command lines', () => {
  const job: Job = {
    hosts: [
      { name: 'a', slots: [0, 1] },
      { name: 'b', slots: [1, 3] },
    ],
    argv: ['/usr/bin/node', 'train.js', '--lr', '1 e'],
    variables: ['A', 'B'],
    workingFolder: '/w',
    extra: ['--mca', 'btl', 'tcp,self'],
    asRoot: false,
  };
  const tail = (words: readonly string[]) => words.slice(-job.argv.length - job.extra.length);

  it('end with the words of the user, then the program', () => {
    for (const kind of ['openmpi', 'mpich', 'slurm'] as const)
      expect(tail(commandLine(kind, job).words)).toEqual([...job.extra, ...job.argv]);
  });

  it('mpirun', () => {
    const { program, words, environment } = commandLine('openmpi', job);
    expect(program).toBe('mpirun');
    expect(words.slice(0, 4)).toEqual(['-n', '4', '--host', 'a:2,b:2']);
    expect(words.join(' ')).toContain('-x A -x B');
    expect(words.join(' ')).toContain('--mca orte_enable_recovery 1');
    expect(environment).toEqual({});
    expect(commandLine('openmpi', { ...job, asRoot: true }).environment).toHaveProperty(
      'OMPI_ALLOW_RUN_AS_ROOT',
    );
  });

  it('mpiexec', () => {
    const { program, words } = commandLine('mpich', job);
    expect(program).toBe('mpiexec');
    expect(words.join(' ')).toContain('-n 4 -hosts a:2,b:2');
    expect(words.join(' ')).toContain('-genvlist A,B');
  });

  it('srun, which wants equal hosts', () => {
    const { program, words } = commandLine('slurm', job);
    expect(program).toBe('srun');
    expect(words).toEqual(
      expect.arrayContaining(['--ntasks=4', '--ntasks-per-node=2', '--nodelist=a,b']),
    );
    const uneven = { ...job, hosts: [job.hosts[0]!, { name: 'c', slots: [0] }] };
    expect(() => commandLine('slurm', uneven)).toThrow('a has 2, c has 1');
  });

  it('are known by name', () => {
    expect(launcherKind('OpenMPI')).toBe('openmpi');
    expect(() => launcherKind('pdsh')).toThrow(
      expect.objectContaining({ code: 'NOT_AVAILABLE_YET' }),
    );
    expect(() => launcherKind('ssh')).toThrow(expect.objectContaining({ code: 'LAUNCHER_USAGE' }));
  });

  it.each([
    ['openmpi', '[1,12]<stderr>:a: b', 12, 'a: b'],
    ['mpich', '[3] x', 3, 'x'],
    ['slurm', ' 7: ', 7, ''],
    ['openmpi', 'mpirun noticed', null, 'mpirun noticed'],
  ] as const)('%s labels %j', (kind, line, rank, text) => {
    expect(unlabel(kind, line)).toEqual({ rank, text });
  });
});
