#include "textflag.h"

// Numbers of the kernel: uapi/asm-generic/unistd.h and uapi/linux/futex.h.
#define SYS_futex 98
#define SYS_tgkill 131
#define SYS_gettid 178
#define FUTEX_WAKE_PRIVATE 129

// The kernel calls these with the signal in R0, a siginfo in R1 and a context in R2,
// and what they return to is its own, which gives every register back.

// onFault tells a fault of ours (si_code is above 0), which is the runtime's, from
// a signal that somebody has sent.
TEXT onFault<>(SB),NOSPLIT|NOFRAME|TOPFRAME,$0
	MOVW 8(R1), R8
	CMPW $0, R8
	BLE  sent
	MOVD ·faultHandler(SB), R8
	JMP  (R8)
sent:
	JMP  onSignal<>(SB)

// onJob has one thread note a signal that stops or continues: in the order in which
// they come, which two threads with handlers of their own would not keep.
TEXT onJob<>(SB),NOSPLIT|NOFRAME|TOPFRAME,$0
	MOVD R0, R2
	MOVD $SYS_gettid, R8
	SVC
	MOVWU ·jobThread(SB), R1
	CMPW R1, R0
	BEQ  here
	MOVWU ·process(SB), R0
	MOVD $SYS_tgkill, R8
	SVC
	RET
here:
	MOVD R2, R0
	JMP  onSignal<>(SB)

// INC adds 1 to the word at R3; it is in R4 then.
#define INC(again) \
again: \
	LDAXRW (R3), R4 \
	ADDW   $1, R4 \
	STLXRW R4, (R3), R5 \
	CBNZW  R5, again

// onSignal notes when the signal came, counts it, and wakes who waits for the bell.
TEXT onSignal<>(SB),NOSPLIT|NOFRAME|TOPFRAME,$0
	MOVD $·tickets(SB), R3
	INC(ticket)
	MOVD $·came(SB), R3
	ADD  R0<<2, R3, R3
	MOVW R4, (R3)
	MOVD $·received(SB), R3
	ADD  R0<<2, R3, R3
	INC(count)
	MOVD $·bell(SB), R3
	INC(ring)
	MOVD R3, R0
	MOVD $FUTEX_WAKE_PRIVATE, R1
	MOVD $1, R2
	MOVD $SYS_futex, R8
	SVC
	RET

GLOBL ·onSignalAddr(SB), RODATA, $8
DATA ·onSignalAddr(SB)/8, $onSignal<>(SB)
GLOBL ·onFaultAddr(SB), RODATA, $8
DATA ·onFaultAddr(SB)/8, $onFault<>(SB)
GLOBL ·onJobAddr(SB), RODATA, $8
DATA ·onJobAddr(SB)/8, $onJob<>(SB)
GLOBL ·sigreturnAddr(SB), RODATA, $8
DATA ·sigreturnAddr(SB)/8, $0
