// Package exec starts the user's program and supervises it. [Replace] becomes the program. [Run]
// starts it and stays in front of it as if nothing were there: signals go in, output and exit
// status come out, and orphans are reaped. The package knows nothing of secrets; the caller's
// writers decide what becomes of the output.
//
// It is the only package that imports os/exec and starts processes. That is why [Output], which
// runs helper programs, [SelfPath], which finds our own binary, and [WidenPipe] are here, too.
//
// # Size
//
// The package has more than 1,500 lines without its tests, because it is one state machine:
// signals, the wait for children, output and the terminal change each other's behaviour. A
// stopped program stops us, for example, in a way that depends on the terminal, and output is
// drained for as long as the signals allow. The parts that need no other are packages of their
// own: exec/terminal, which is the pseudo-terminal, and exec/harden.
//
// # Decision: package os/signal catches the signals
//
// A supervisor should pass on every signal, in order and as often as it was sent. Package os/signal
// cannot do that:
//
//   - It keeps one bit for each signal. Signals of one number that come together are merged,
//     real-time signals included, and signals of different numbers that come within a moment are
//     passed on in the order of their numbers. SIGCONT (18) then overtakes SIGTSTP (20).
//   - It never delivers SIGPROF and the first real-time signal (34), which Go's runtime keeps.
//   - It knows of SIGHUP and SIGINT only whether they were ignored when we started. Other ignored
//     signals, and blocked ones, are taken and passed on.
//   - After [signal.Reset] its handler stays. defaultAction asks the kernel instead.
//   - To take one signal costs a handover to a thread of the runtime, some 10 microseconds. To take
//     all of them would add 0.7 ms to the start and as much to the end. So [TakeSignals] takes
//     those that supervisors send, Run takes the others a millisecond after the start, and
//     [Signals.Release] does not wait.
//
// This is accepted. A handler of our own in assembly did all of it, but took 400 lines, two
// assembly files and knowledge of how the runtime uses signal stacks, and was 0.15 ms faster. The
// kernel merges ordinary signals, too, and a supervisor that stops a task and continues it within a
// millisecond can send SIGCONT once more. The users' side of this is in docs/reference/limits.md.
package exec
