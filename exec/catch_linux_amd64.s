#include "textflag.h"

// Numbers of the kernel: arch/x86/entry/syscalls/syscall_64.tbl and uapi/linux/futex.h.
#define SYS_rt_sigreturn 15
#define SYS_gettid       186
#define SYS_futex        202
#define SYS_tgkill       234
#define FUTEX_WAKE_PRIVATE 129

// The kernel calls these with the signal in DI, a siginfo in SI and a context in DX,
// and what they return to is sigreturn, which gives every register back.

// onFault tells a fault of ours (si_code is above 0), which is the runtime's, from
// a signal that somebody has sent.
TEXT onFault<>(SB),NOSPLIT|NOFRAME|TOPFRAME,$0
	CMPL 8(SI), $0
	JLE  sent
	MOVQ ·faultHandler(SB), AX
	JMP  AX
sent:
	JMP  onSignal<>(SB)

// onJob has one thread note a signal that stops or continues: in the order in which
// they come, which two threads with handlers of their own would not keep.
TEXT onJob<>(SB),NOSPLIT|NOFRAME|TOPFRAME,$0
	MOVL $SYS_gettid, AX
	SYSCALL
	MOVL ·jobThread(SB), SI
	CMPL AX, SI
	JEQ  here
	MOVL DI, DX
	MOVL ·process(SB), DI
	MOVL $SYS_tgkill, AX
	SYSCALL
	RET
here:
	JMP  onSignal<>(SB)

// onSignal notes when the signal came, counts it, and wakes who waits for the bell.
TEXT onSignal<>(SB),NOSPLIT|NOFRAME|TOPFRAME,$0
	MOVL DI, CX
	LEAQ ·tickets(SB), AX
	MOVL $1, DX
	LOCK
	XADDL DX, (AX)
	INCL DX
	LEAQ ·came(SB), AX
	MOVL DX, (AX)(CX*4)
	LEAQ ·received(SB), AX
	LOCK
	INCL (AX)(CX*4)
	LEAQ ·bell(SB), DI
	LOCK
	INCL (DI)
	MOVL $FUTEX_WAKE_PRIVATE, SI
	MOVL $1, DX
	MOVL $SYS_futex, AX
	SYSCALL
	RET

TEXT sigreturn<>(SB),NOSPLIT|NOFRAME|TOPFRAME,$0
	MOVL $SYS_rt_sigreturn, AX
	SYSCALL
	INT  $3 // not reached

GLOBL ·onSignalAddr(SB), RODATA, $8
DATA ·onSignalAddr(SB)/8, $onSignal<>(SB)
GLOBL ·onFaultAddr(SB), RODATA, $8
DATA ·onFaultAddr(SB)/8, $onFault<>(SB)
GLOBL ·onJobAddr(SB), RODATA, $8
DATA ·onJobAddr(SB)/8, $onJob<>(SB)
GLOBL ·sigreturnAddr(SB), RODATA, $8
DATA ·sigreturnAddr(SB)/8, $sigreturn<>(SB)
