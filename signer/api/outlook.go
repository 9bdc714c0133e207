package api

import "time"

// Wait is what one step that can come next waits for.
type Wait struct {
	Step    string `json:"step"` // as in PlanStep, destroy, or "hand over": a former log key ceases to sign checkpoints
	Version int    `json:"version"`
	// At is the earliest moment of the step; null: it waits for something other
	// than time. RetryAfter is how many seconds that is ahead, rounded up.
	At         *time.Time `json:"at"`
	RetryAfter int64      `json:"retry_after,omitempty"`
	Rule       int        `json:"rule"` // the rotation rule that decides; 0: the schedule
	Text       string     `json:"text"`
	// Since is when the version came to where the step finds it.
	Since *time.Time `json:"since,omitempty"`
	Nodes []string   `json:"nodes,omitempty"` // that it waits for
}

// Asked is what an operator asked for: when, who, and why.
type Asked struct {
	At     time.Time `json:"at"`
	By     string    `json:"by"`
	Reason string    `json:"reason"`
}
