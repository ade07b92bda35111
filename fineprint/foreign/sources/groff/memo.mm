.\" @page kind=letter language=en width=800 size=430x400
.\" @ask field | What is the memo about? | Noise in the reading room
.\" @ask field | How loud was it at noon? | 71 decibels | 71
.\" @ask field | Who sent the memo? | C. Wobblethorpe
.\" @ask field | What shall be oiled? | trolley wheels | the trolley wheels
.nr W 5i
.PGFORM 5i 5.5i 0.5i
.S 12 15
.SA 0
.PH ""
.PF ""
.B
MEMORANDUM
.R
.P
.nf
From: C. Wobblethorpe
To: All librarians
Subject: Noise in the reading room
.fi
.P
We measured for a week. At nine in the morning the room is as quiet as a wood in snow, with 33 decibels. At noon it is 71 decibels, which is a busy road.
.P
From Monday the trolley wheels are to be oiled every second day, and the date stamp moves to the lobby. Felt is on order for the chairs.
