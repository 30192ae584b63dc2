package main

import (
	"math"
	"slices"
	"time"
)

// Stat is what many measurements of the same thing come to. The quartiles tell
// the noise: the extremes of a busy machine tell of the machine.
type Stat struct {
	Median float64
	Low    float64
	High   float64
	N      int
}

func statOf(values []float64) Stat {
	v := slices.Sorted(slices.Values(values))
	at := func(q float64) float64 {
		x := q * float64(len(v)-1)
		i := int(x)
		if i+1 == len(v) {
			return v[i]
		}
		return v[i] + (x-math.Floor(x))*(v[i+1]-v[i])
	}
	return Stat{Median: at(0.5), Low: at(0.25), High: at(0.75), N: len(v)}
}

// A contender does the measured thing once.
type contender struct {
	name string
	run  func() (time.Duration, error)
}

// alternate runs each contender once a round, in another order each round, so that
// what the machine does meanwhile falls on all of them. It returns the times by
// contender, then by round.
func alternate(rounds int, contenders []contender) ([][]time.Duration, error) {
	times := make([][]time.Duration, len(contenders))
	for round := range rounds {
		for k := range contenders {
			i := (k + round) % len(contenders)
			t, err := contenders[i].run()
			if err != nil {
				return nil, err
			}
			times[i] = append(times[i], t)
		}
	}
	return times, nil
}

// rates are MB/s, a megabyte being a million bytes.
func rates(size int, times []time.Duration) Stat {
	v := make([]float64, len(times))
	for i, t := range times {
		v[i] = float64(size) / 1e6 / t.Seconds()
	}
	return statOf(v)
}

// ratios are how many times as fast as those of base the rounds were.
func ratios(times, base []time.Duration) Stat {
	v := make([]float64, len(times))
	for i := range times {
		v[i] = base[i].Seconds() / times[i].Seconds()
	}
	return statOf(v)
}

func millis(times []time.Duration) Stat {
	v := make([]float64, len(times))
	for i, t := range times {
		v[i] = t.Seconds() * 1000
	}
	return statOf(v)
}

// perSecond are how often a second what took these times is done.
func perSecond(times []time.Duration) Stat {
	v := make([]float64, len(times))
	for i, t := range times {
		v[i] = 1 / t.Seconds()
	}
	return statOf(v)
}
