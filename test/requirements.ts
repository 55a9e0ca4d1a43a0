/**
 * What this server promises as a session service, item by item: what its forerunner did and is kept (`seed`), what it did
 * wrong and is put right (`fix`), and what later versions of it added (`opt`).
 *
 * A test that holds an item to account says so in its title, as in `[R9]` or `[R9 R10]`; `requirements.test.ts` fails for
 * an item that no title names, unless it is for later and says why.
 */
export interface Requirement {
  readonly tag: 'seed' | 'fix' | 'opt'
  /** What is promised, as a sentence. */
  readonly says: string
  /** Why no test can hold it to account yet. */
  readonly later?: string
}

export const requirements = {
  // Service and admission
  R1: { tag: 'seed', says: 'A create with room builds the agent once, runs the first turn and lists one idle session' },
  R2: {
    tag: 'seed',
    says: 'Of two creates that race for the last place one succeeds, however slowly agents are built',
  },
  R3: {
    tag: 'seed',
    says: 'A create without room is refused at once, unbuilt, and told how many there are of how many',
  },
  R4: { tag: 'seed', says: 'An agent that cannot be built leaves no session, and the next create succeeds' },
  R5: {
    tag: 'seed',
    says: 'A second session with an id that is taken is refused; the first and its room are unharmed',
  },
  R6: { tag: 'fix', says: 'A first turn that fails says which session it left, and that it can be gone on with' },
  R7: { tag: 'seed', says: 'A session whose first turn failed admits the next' },
  R8: { tag: 'seed', says: 'A turn on an idle session runs the agent once and ends with its result' },
  R9: { tag: 'seed', says: 'A turn during another is refused as busy at once, and the other hears nothing of it' },
  R10: { tag: 'seed', says: 'Of two turns started at a time exactly one is admitted' },
  R11: { tag: 'seed', says: 'Whoever has a turn’s result can start the next: it is never busy' },
  R12: { tag: 'seed', says: 'Whoever has a turn’s result reads and lists a session that is idle and has counted it' },
  R13: { tag: 'seed', says: 'An agent’s error is told as such and leaves the session idle and usable' },
  R14: {
    tag: 'fix',
    says: 'What an agent throws unexpectedly is an internal error, and the session is not busy after it',
  },
  R15: { tag: 'fix', says: 'A caller who leaves, wherever that is, never leaves the session claimed' },
  R16: { tag: 'seed', says: 'A turn whose caller left after it was admitted runs to its end and into the transcript' },
  R17: { tag: 'fix', says: 'The list keeps its order when a session is archived' },
  R18: { tag: 'seed', says: 'A page is empty beyond the end and at limit 0; the offset counts before the limit' },
  R19: { tag: 'fix', says: 'A read answers at once during a turn, and says that the session is active' },
  R20: { tag: 'fix', says: 'History and export answer at once during a turn, with the last commit' },
  R21: { tag: 'fix', says: 'However many wait on one session, no other waits for it' },
  R22: { tag: 'seed', says: 'An id that nobody has is not found, by any operation' },
  R23: { tag: 'seed', says: 'An interrupt of an idle session is refused as not running' },
  R24: { tag: 'seed', says: 'An interrupt of a running turn is accepted' },
  R25: { tag: 'fix', says: 'An interrupt returns at once, and the turn’s caller hears that it was cancelled' },
  R26: { tag: 'fix', says: 'An interrupt between admission and start keeps the agent from being called' },
  R27: { tag: 'fix', says: 'Of an interrupt and a result the one that is recorded first wins' },
  R28: { tag: 'fix', says: 'Two interrupts of one turn are both accepted, and cancel once' },
  R29: { tag: 'fix', says: 'The turn after an interrupted one runs as if nothing had been' },
  R30: { tag: 'fix', says: 'After a turn that was cut off every tool use in the history has a result' },
  R31: { tag: 'seed', says: 'An archived session is not listed, starts no turn and cannot be archived again' },
  R32: { tag: 'seed', says: 'Archiving during a turn returns at once, and the turn’s caller gets its result' },
  R33: { tag: 'fix', says: 'An archived session can be read, as inactive; its history cannot' },
  R34: {
    tag: 'fix',
    says: 'An archived session’s agent is disposed when its turn is over, and only then is there room',
  },
  R35: { tag: 'fix', says: 'A turn in line behind an archive is cancelled, never left hanging' },
  R36: { tag: 'fix', says: 'Archiving a session with a full line is no matter to others' },
  R37: {
    tag: 'fix',
    says: 'Closing refuses new work, drains or cancels turns by its deadline, and can be called twice',
  },
  R38: { tag: 'seed', says: 'Usage adds up over turns, and cached tokens are not part of the total' },
  R39: { tag: 'opt', says: 'Labels filter the list, all pairs at once, are shown by reads, and default to none' },
  R40: {
    tag: 'opt',
    says: 'A create may defer its first turn: it runs nothing and can be watched before there is one',
  },

  // Events and streaming
  R41: { tag: 'seed', says: 'run_started comes before every other event, and all are there before the result is' },
  R42: { tag: 'seed', says: 'A turn that nobody watches ends, however many events it has' },
  R43: { tag: 'seed', says: 'A turn goes on when the one who watches it leaves' },
  R44: { tag: 'fix', says: 'A reader who does not read holds nobody up, and is told later how much is gone' },
  R45: { tag: 'fix', says: 'What an agent reports between turns is not taken for part of the next turn' },
  R46: { tag: 'fix', says: 'Every turn has exactly one terminal event, and it is the last' },
  R47: { tag: 'fix', says: 'Events of a session are numbered from 1 without gap or repetition, for all readers alike' },
  R48: { tag: 'fix', says: 'A reader resumes after any event that is kept; before that a marker says what is gone' },
  R49: { tag: 'seed', says: 'Every event has a type, survives its wire form, and is named by its type there' },
  R50: { tag: 'seed', says: 'A session’s stream begins with where the session stands' },
  R51: { tag: 'fix', says: 'A session can be watched from the first event of its first turn' },
  R52: { tag: 'fix', says: 'An open stream shows life while it is idle, and archiving ends it with done' },
  R53: { tag: 'fix', says: 'Traffic of one session costs readers of another nothing' },

  // Agent sequences
  R54: {
    tag: 'seed',
    says: 'A turn of text is run_started, turn_started, deltas, the whole, turn_completed, run_completed',
  },
  R55: { tag: 'seed', says: 'The deltas of a call add up to its whole text, and no text has no whole' },
  R56: { tag: 'seed', says: 'All tools of a reply are asked for before any runs, and then the next call begins' },
  R57: { tag: 'seed', says: 'Every tool call is completed once and then received, under the same id' },
  R58: { tag: 'seed', says: 'A tool that fails or does not exist answers with an error, and the turn goes on' },
  R59: { tag: 'fix', says: 'Every model call, with tools or without, ends with its own turn_completed and usage' },
  R60: { tag: 'fix', says: 'Tool results are kept in the order of the calls, whatever became of each' },
  R61: { tag: 'fix', says: 'A model call that fails in passing is announced, delayed and tried again' },
  R62: { tag: 'seed', says: 'Four passing failures, or one lasting, are the end of a model call' },
  R63: { tag: 'seed', says: 'A lasting failure ends the turn with run_failed and its text, and no run_completed' },
  R64: { tag: 'seed', says: 'A turn without any budget left calls no model' },
  R65: {
    tag: 'fix',
    says: 'A limit that is reached is announced with its kind and true numbers, and ends the turn as such',
  },
  R66: {
    tag: 'seed',
    says: 'A hook that denies a model call ends the turn before that call',
  },
  R67: { tag: 'seed', says: 'A hook that denies a tool call is its answer, and the call still counts' },
  R68: { tag: 'seed', says: 'What a hook rewrites is taken over and announced' },
  R69: { tag: 'seed', says: 'A hook that fails open is told of; one that fails closed denies' },
  R70: { tag: 'seed', says: 'A hook that could not do what it is for stops the start' },
  R71: { tag: 'fix', says: 'A hook that denies a turn at its start ends it with run_failed' },
  R72: {
    tag: 'seed',
    says: 'Structured output is the model’s own JSON, fenced or not, and its parsed value, one call after the answer',
  },
  R73: { tag: 'seed', says: 'Output that never fits its schema fails the turn, which says how often it was asked for' },
  R74: { tag: 'seed', says: 'A summary leaves the system prompt and the newest turns whole; a failed one leaves all' },
  R75: { tag: 'fix', says: 'Neither a summary nor an extraction is shown as text of the answer' },
  R76: {
    tag: 'seed',
    says: 'A skill at the very beginning of a prompt is put in its place; further on it is plain text',
  },
  R77: { tag: 'fix', says: 'A skill that is not there is told of, and the turn runs without it' },
  R78: { tag: 'seed', says: 'A session that is taken elsewhere, or forked, keeps its system prompt' },

  // Inboxes, peers and host mode
  R79: {
    tag: 'seed',
    says: 'What comes in is taken at once and runs nothing; a full inbox says so, and an archived session takes none',
  },
  R80: { tag: 'seed', says: 'All that waits is one user message, each part with its source, blank lines between them' },
  R81: { tag: 'fix', says: 'Host mode without a name that peers could use is a bad request' },
  R82: {
    tag: 'seed',
    says: 'An interaction that is followed has a run of its own, its events and one end with its result',
  },
  R83: { tag: 'seed', says: 'A run that fails fails its interaction before it fails the turn of its host' },
  R84: { tag: 'fix', says: 'Whatever a host took or was sent ends, once, also when the run before it fails' },
  R85: { tag: 'seed', says: 'Requests run one by one, messages as one run, and responses only enter the history' },
  R86: {
    tag: 'seed',
    says: 'A peer’s dismissal ends host mode and is not shown to the model; the same word from elsewhere is text',
  },
  R87: { tag: 'fix', says: 'A host is read, listed, interrupted and archived as promptly as any session' },
  R88: {
    tag: 'seed',
    says: 'An interaction can be followed by many, and again after its end; one that is forgotten or unknown is not found',
  },
  R89: { tag: 'seed', says: 'Peers are all named sessions but oneself, each once; anybody else cannot be sent to' },
  R90: { tag: 'fix', says: 'Input for the session itself that does not say so is a bad request' },

  // HTTP
  R91: { tag: 'fix', says: 'Every error, whoever raises it, has the same form' },
  R92: { tag: 'fix', says: 'Every code of an error has its one status' },
  R93: { tag: 'seed', says: 'A session is named in one place only: what a body says of it beside the path is refused' },
  R94: {
    tag: 'fix',
    says: 'A webhook without one of the secrets is refused before its body is read; where there are none all are let in',
  },
  R95: { tag: 'fix', says: 'Without a key nothing is told but that the server is there' },
  R96: {
    tag: 'opt',
    says: 'A request that waits can be cancelled by an id that its sender gave it',
    later: 'a turn can, by its number, and a request that waits leaves it alone',
  },
  R97: {
    tag: 'fix',
    says: 'A request that comes again under its key runs nothing again; another under that key is refused',
  },
  R98: { tag: 'opt', says: 'The history is paged oldest first, and every page says how much there is' },
  R99: { tag: 'fix', says: 'An option that cannot apply is refused, never ignored' },
  R100: { tag: 'fix', says: 'A provider may go by the name that it has elsewhere' },
} as const satisfies Record<`R${number}`, Requirement>

export type RequirementId = keyof typeof requirements

/** The ids that a test file's titles name. */
export function citations(source: string): string[] {
  const ids: string[] = []
  for (const [tag] of source.matchAll(/\[R\d+(?: R\d+)*\]/g)) ids.push(...tag.slice(1, -1).split(' '))
  return ids
}
