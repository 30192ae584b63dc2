package main

import (
	"math"
	"slices"
	"time"
)

// Stat sums up many measurements of the same thing. Low and High are the quartiles, which show
// the noise. The extremes would show how busy the machine was.
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

// A contender does once what is measured, and returns its time.
type contender struct {
	name string
	run  func() (time.Duration, error)
}

// alternate runs each contender once a round, in another order each round, so that other load
// falls on all of them. It returns the times by contender, then by round.
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

// rates returns MB/s, with a megabyte of a million bytes.
func rates(size int, times []time.Duration) Stat {
	v := make([]float64, len(times))
	for i, t := range times {
		v[i] = float64(size) / 1e6 / t.Seconds()
	}
	return statOf(v)
}

// ratios returns the speeds of the rounds as multiples of those of base.
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

// perSecond returns the number of repetitions in a second for each of the times.
func perSecond(times []time.Duration) Stat {
	v := make([]float64, len(times))
	for i, t := range times {
		v[i] = 1 / t.Seconds()
	}
	return statOf(v)
}
