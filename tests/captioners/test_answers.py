import csv
from pathlib import Path

import pytest

from captioners import answers, changes, numbered
from captioners.answers import Unfit
from manifests import prompts

PAIR = {"source": "A slow piece.", "target": "A fast piece.", "edit": "pair", "amount": None}
SEEN = {"music": "A slow piece.", "image": "a dark room", "video": "a dark room"}
MUSICCAPS = Path(__file__).resolve().parents[3] / "shared" / "audioset" / "musiccaps-public.csv"


@pytest.mark.parametrize("dataset, side, text", [
    ("muedit", "human", "Change the music to have a faster tempo and brighter drums."),
    ("muedit", "human", "Please add a violin to the melody."),
    ("muedit", "human", "I would like you to replace the piano with a guitar."),
    ("muedit", "human", "The tempo is too slow; speed it up and drop the vocals."),
    ("muedit", "model", "Here is a music that is fast and bright."),
    ("muedit", "model", "Here's some music that is fast, with drums."),
    ("muimage", "human", "Generate a music for the image that is calm and dark like the room it shows."),
    ("muimage", "human", "generate music for the image that captures the quiet of a dark room"),
    ("muvideo", "human", "Generate some music for this video that is calm and slow."),
    ("muvideo", "model", "Here is a music that features a calm piano."),
])
def test_what_is_of_the_asked_form_is_kept_as_it_is(dataset, side, text):
    assert answers.line(dataset, side, f"  {text}\n", PAIR if dataset == "muedit" else SEEN) == text


@pytest.mark.parametrize("dataset, side, text, why", [
    ("muedit", "human", "", "empty"),
    ("muedit", "human", "   \n ", "empty"),
    ("muedit", "human", "Change the tempo.\nAlso add drums.", "2 lines"),
    ("muedit", "human", "The target is a fast piece with drums in it.", "no instruction"),
    ("muedit", "human", "Here is a music that is fast. Change the tempo.", "no instruction"),
    ("muedit", "human", "Input: A slow piece. Change it.", "piece of the prompt"),
    ("muedit", "human", "Change the music. Target: a fast piece.", "piece of the prompt"),
    ("muedit", "human", "Change the music to be fast.<|im_end|> <|im_start|>user", "piece of the prompt"),
    ("muedit", "human", "You will give a single line instruction: change the music.", "echo"),
    ("muedit", "human", "Give the instruction based on the music descriptions", "echo"),
    ("muedit", "human", "As an AI language model, change the music.", "refusal"),
    ("muedit", "human", "I'm sorry, but I cannot change the music.", "refusal"),
    ("muedit", "human", "Change the music to be ....", "gap"),
    ("muedit", "human", "Change the music so that it is fast and…", "gap"),
    ("muedit", "human", "Faster!", "too short"),
    ("muedit", "human", "Change the music. " * 150, "characters"),
    ("muedit", "human", "Change the mu\x00sic to be faster.", "control"),
    ("muedit", "human", "Ändere die Musik so, dass sie schneller ist und mit einer Trommel beginnt.", "English"),
    ("muedit", "human", "Changez la musique pour que le tempo soit plus rapide et avec une batterie.", "English"),
    ("muedit", "model", "Fast music with drums.", "form"),
    ("muedit", "model", "Here is the music you asked for.", "form"),
    ("muedit", "model", "Here is a music that is schnell und laut mit einer Trommel und einem Bass.", "English"),
    ("muedit", "model", "Here is a music that is 一首快速的歌曲，带有强烈的鼓点和明亮的旋律。", "English"),
    ("muimage", "human", "Create a song for the picture of a dark room.", "form"),
    ("muimage", "human", "Generate a music for the video that is calm and dark.", "form"),
    ("muvideo", "human", "Generate a music for the image that is calm and dark.", "form"),
    ("muvideo", "human", "Generate a music for the video.", "form"),
])
def test_what_cannot_be_stored_is_refused_by_name(dataset, side, text, why):
    with pytest.raises(Unfit, match=why):
        answers.line(dataset, side, text, PAIR if dataset == "muedit" else SEEN)


def test_quotes_around_and_end_marks_after_an_answer_are_taken_off():
    said = "Change the music to be faster."
    for text in (f'"{said}"', f"“{said}”", f"{said}<|im_end|>\n", f"{said}</s>"):
        assert answers.line("muedit", "human", text, PAIR) == said


@pytest.mark.parametrize("text", [
    "Die Musik ist schnell.", "une musique douce et triste", "Cambia la música para que sea más rápida.",
    "Das Stück ist ein ruhiges Lied mit einer Gitarre und einem Klavier, das sehr traurig klingt.",
    "Cette chanson est une ballade lente avec un piano et une voix de femme qui chante dans le style du jazz.",
    "Esta canción es una balada lenta con un piano y una voz de mujer que canta en el estilo del jazz.",
    "Questa canzone è una ballata lenta con un pianoforte e la voce di una donna che canta nello stile del jazz.",
    "Esta música é uma balada lenta com um piano e uma voz feminina que canta no estilo do jazz.",
    "Dit nummer is een langzame ballade met een piano en een zangeres, en het klinkt niet erg vrolijk.",
    "Den här låten är en långsam ballad med piano och en sångerska som sjunger i jazzstil.",
    "Ta piosenka jest wolną balladą na fortepian i głos kobiety, która śpiewa w stylu jazzowym.",
    "Lagu ini adalah balada lambat dengan piano dan suara wanita yang bernyanyi dalam gaya jazz.",
    "Bu şarkı, piyano ve caz tarzında şarkı söyleyen bir kadın sesi ile yavaş bir balad.",
    "Эта песня представляет собой медленную балладу с фортепиано и женским голосом.",
    "这首歌是一首缓慢的民谣，配有钢琴和女声。",
    "この曲はピアノと女性の声によるゆっくりとしたバラードです。",
    "이 노래는 피아노와 여성 목소리가 있는 느린 발라드입니다.",
    "هذه الأغنية عبارة عن أغنية بطيئة مع البيانو وصوت امرأة.",
    "Tämä kappale on hidas balladi, jossa on piano ja naisen ääni, joka laulaa jazzin tyyliin.",
])
def test_other_languages_are_refused(text):
    with pytest.raises(Unfit, match="English"):
        answers.prose(text, "")


def test_no_caption_that_people_wrote_is_refused():
    if not MUSICCAPS.is_file():
        pytest.skip("no MusicCaps beside this checkout")
    with MUSICCAPS.open(newline="", encoding="utf-8") as source:
        captions = [" ".join(row["caption"].split()) for row in csv.DictReader(source)]
    assert len(captions) > 5000
    system = prompts.system("musicqa", "closed", {"music": ""})
    assert [answers.prose(caption, system) for caption in captions[::5]] == captions[::5]


TEMPO = [
    ("Slow it down to half its tempo.", 0.5), ("Play the music half as fast.", 0.5), ("Halve the tempo.", 0.5),
    ("Cut the tempo in half, keep the pitch.", 0.5), ("Slow the song down by half.", 0.5), ("Use half speed.", 0.5),
    ("Make it 50% faster.", 1.5), ("Make it fifty percent faster.", 1.5), ("Speed the track up by 50 per cent.", 1.5),
    ("Play it one and a half times as fast.", 1.5), ("Increase the tempo by a factor of 1.5.", 1.5),
    ("Set the tempo to 1.5x the original.", 1.5), ("Multiply the speed by 1.5.", 1.5),
    ("Slow the music down by thirty percent without changing its pitch.", 0.7), ("Make it 30% slower.", 0.7),
    ("Play it at 70% of its original tempo.", 0.7), ("Reduce the tempo to 70%.", 0.7),
    ("Change the tempo to 0.7 times.", 0.7),
    ("Speed it up by 30%, but keep the key and the pitch as they are.", 1.3), ("Play it at 130 percent speed.", 1.3),
    ("Raise the tempo from 100 to 130 BPM.", 1.3), ("Lower the tempo from 120 BPM to 60 BPM.", 0.5),
    ("Twice as fast, please: double the tempo.", 2.0), ("Slow it down by a factor of 2.", 0.5),
    ("Slow it down to twenty-five percent of the tempo.", 0.25),
]


@pytest.mark.parametrize("text, ratio", TEMPO)
def test_a_change_of_tempo_is_read_in_many_wordings(text, ratio):
    assert changes.read(text).tempi == pytest.approx([ratio] * len(changes.read(text).tempi))
    assert changes.contradiction(text, "tempo", ratio) == ""
    assert changes.contradiction(text, "tempo", 1 / ratio) != ""
    assert changes.contradiction(text, "tempo", 0.9) != ""


PITCH = [
    ("Raise the pitch by two semitones.", 2), ("Transpose it up a whole step.", 2), ("Take it down two semitones.", -2),
    ("Lower the pitch by 2 semitones without slowing it down.", -2), ("Shift the pitch up by one half step.", 1),
    ("Play it a semitone lower at the same tempo.", -1), ("Transpose the piece a perfect fourth up.", 5),
    ("Lower the pitch by a fourth.", -5), ("Raise it by two and a half steps in pitch.", 5),
    ("Shift the pitch by -5 semitones.", -5),
    ("Shift the pitch by +1 semitone.", 1), ("Raise the key a half-step.", 1),
    ("Move the pitch down a whole tone.", -2),
    ("Transpose it up a fifth, keep the speed.", 7), ("Transpose the track down by one octave.", -12),
    ("Transpose the music up by two semitones, from C major to D major.", 2),
    ("Lower the pitch of this calm, sad piece by a semitone.", -1), ("Make the slow song one semitone higher.", 1),
]


@pytest.mark.parametrize("text, shift", PITCH)
def test_a_shift_of_pitch_is_read_in_many_wordings(text, shift):
    assert changes.read(text).shifts == [shift]
    assert changes.contradiction(text, "pitch", shift) == ""
    assert changes.contradiction(text, "pitch", -shift) != ""
    assert changes.contradiction(text, "pitch", shift + 1) != ""


@pytest.mark.parametrize("text, edit, amount, why", [
    ("Slow the music down.", "tempo", 0.5, "how much"),
    ("Raise the pitch.", "pitch", 2, "how much"),
    ("Make the tone brighter.", "tempo", 0.5, "another change"),
    ("Make it 50% faster.", "tempo", 0.5, "says 1.5"),
    ("Slow it down to 1.5 times its tempo.", "tempo", 1.5, "contradicts"),
    ("Slow it to half its tempo and lower the pitch by two semitones.", "tempo", 0.5, "changes the pitch"),
    ("Lower the pitch by two semitones and make it 50% slower.", "pitch", -2, "changes the tempo"),
    ("Keep the tempo, 50% of it.", "tempo", 0.5, "stays"),
    ("Halve the tempo and add drums.", "tempo", 0.5, "another change"),
    ("Change the pitch by two semitones.", "pitch", 2, "up or down"),
    ("Raise the pitch by two steps.", "pitch", 4, "neither"),
    ("Make it half as slow.", "tempo", 0.5, "may mean"),
    ("Raise the pitch by two semitones, from C major to E major.", "pitch", 2, "keys"),
])
def test_an_instruction_that_does_not_state_the_change_is_refused(text, edit, amount, why):
    assert why in changes.contradiction(text, edit, amount)


def test_a_goal_in_bpm_is_read_with_the_source_tempo():
    assert changes.contradiction("Slow it down to 46 BPM.", "tempo", 0.5, 92) == ""
    assert "says 0.5" in changes.contradiction("Slow it down to 46 BPM.", "tempo", 0.7, 92)
    given = {"source": "The piece moves at 92 BPM.", "target": "The piece is slow.", "edit": "tempo", "amount": 0.5}
    assert answers.line("muedit", "human", "Bring the tempo down to 46 BPM.", given)
    with pytest.raises(Unfit, match=r"says 0\.8"):
        answers.line("muedit", "human", "Bring the tempo down to 74 BPM.", given)


FOUR = ["Slow.", "Slow and dark.", "A piano.", "It is sad."]
CLOSED = {
    "plain": "1. Slow.\n2. Slow and dark.\n3. A piano.\n4. It is sad.",
    "brackets": "1) Slow.\n2) Slow and dark.\n3) A piano.\n4) It is sad.",
    "colons": "1: Slow.\n2: Slow and dark.\n3: A piano.\n4: It is sad.",
    "bold": "**1.** Slow.\n**2.** Slow and dark.\n**3.** A piano.\n**4.** It is sad.",
    "blank lines": "\n1. Slow.\n\n2. Slow and dark.\n\n\n3. A piano.\n\n4. It is sad.\n\n",
    "preamble": "Sure! Here are the answers to your questions:\n\n1. Slow.\n2. Slow and dark.\n3. A piano.\n"
                "4. It is sad.",
    "questions": "1. Describe the audio: Slow.\n2. Describe the audio in detail: Slow and dark.\n"
                 "3. What do you hear in the audio? A piano.\n4. What can be inferred from the audio? It is sad.",
    "question lines": "1. Describe the music\nSlow.\n2. Describe the music in detail\nSlow and dark.\n"
                      "3. What do you hear in the audio\nA piano.\n4. What can be inferred from the audio\nIt is sad.",
    "labels": "1. Answer: Slow.\n2. A: Slow and dark.\n3. answer: A piano.\n4. Answer 4: It is sad.",
    "questions and labels": "1. Describe the audio\nAnswer: Slow.\n2. **Describe the audio in detail**\nAnswer: Slow "
                            "and dark.\n3. What do you hear in the audio?\nA: A piano.\n4. \"What can be inferred from "
                            "the audio?\" - It is sad.",
    "q and a numbers": "Q1: Describe the audio\nA1: Slow.\nQ2: Describe the audio in detail\nA2: Slow and dark.\n"
                       "Q3: What do you hear in the audio?\nA3: A piano.\nQ4: What can be inferred from the audio?\n"
                       "A4: It is sad.",
    "only a numbers": "A1: Slow.\nA2: Slow and dark.\nA3: A piano.\nA4: It is sad.",
    "one line": "1. Slow. 2. Slow and dark. 3. A piano. 4. It is sad.",
    "running on": "1. Slow.\n2. Slow\nand dark.\n3. A\n  piano.\n4. It is\nsad.",
    "good wishes": "1. Slow.\n2. Slow and dark.\n3. A piano.\n4. It is sad.\n\nI hope this helps!",
    "round brackets": "(1) Slow.\n(2) Slow and dark.\n(3) A piano.\n(4) It is sad.",
    "dashes": "1 - Slow.\n2 - Slow and dark.\n3 - A piano.\n4 - It is sad.",
    "headings": "### 1. Slow.\n### 2. Slow and dark.\n### 3. A piano.\n### 4. It is sad.",
    "tight": "1.Slow.\n2.Slow and dark.\n3.A piano.\n4.It is sad.",
    "windows": "1. Slow.\r\n2. Slow and dark.\r\n3. A piano.\r\n4. It is sad.\r\n",
}


@pytest.mark.parametrize("text", CLOSED.values(), ids=CLOSED)
def test_four_answers_are_read_from_messy_texts(text):
    assert numbered.closed(text) == FOUR


def test_a_number_inside_an_answer_opens_no_answer():
    text = ("1. Slow.\n2. The tempo is\n92. That is slow, in 4/4 time at\n1.5 notes a second.\n3. A piano.\n"
            "4. It is sad.")
    assert numbered.closed(text)[1] == "The tempo is 92. That is slow, in 4/4 time at 1.5 notes a second."


@pytest.mark.parametrize("text, why", [
    ("Slow.\nSlow and dark.\nA piano.\nIt is sad.", "0 numbered answers where 4"),
    ("1. Slow.\n2. Slow and dark.\n3. A piano.", "3 numbered answers where 4"),
    ("1. Slow.\n2. Slow and dark.\n3. A piano.\n4. It is sad.\n5. More.", "more than 4"),
    ("1. Slow.\n2. Slow and dark.\n4. It is sad.", "number 4 where 3"),
    ("1. Slow.\n2. Slow.\n2. Slow and dark.\n3. A piano.\n4. It is sad.", "number 2 where 3"),
    ("2. Slow.\n1. Slow and dark.\n3. A piano.\n4. It is sad.", "number 2 where 1"),
    ("1. Slow.\n2.\n3. A piano.\n4. It is sad.", "answer 2 is empty"),
    ("1. Slow.\n2. Describe the audio in detail\n3. A piano.\n4. It is sad.", "answer 2 is empty"),
    ("1. Slow.\n2. What do you hear in the audio? Dark.\n3. A piano.\n4. It is sad.", "out of order"),
])
def test_wrong_numbered_answers_are_refused_by_name(text, why):
    with pytest.raises(Unfit, match=why):
        numbered.closed(text)


ASKED = [("What is the tempo?", "It is slow."), ("What is the mood?", "It is sad."),
         ("Which instruments are used?", "A piano is used."), ("Is there a voice?", "There is none."),
         ("What can be inferred?", "It is an old song.")]
OPEN = {
    "question answer": "{n}. Question: {q} Answer: {a}",
    "two lines": "{n}. Question: {q}\nAnswer: {a}",
    "numbered labels": "Q{n}: {q}\nA{n}: {a}",
    "words and numbers": "Question {n}: {q}\nAnswer {n}: {a}",
    "line below": "{n}. {q}\n{a}",
    "indented": "{n}) {q}\n   - {a}\n",
    "one line": "{n}. {q} {a}",
    "letters": "{n}. Q: {q}\nA: {a}",
    "bold": "**{n}. {q}**\n\n{a}\n",
    "bold labels": "{n}. **Question:** {q}\n**Answer:** {a}",
    "answer only": "{n}: {q} A: {a}",
}


@pytest.mark.parametrize("form", OPEN.values(), ids=OPEN)
def test_five_questions_are_read_from_messy_texts(form):
    text = "\n".join(form.format(n=number, q=question, a=answer) for number, (question, answer) in enumerate(ASKED, 1))
    assert numbered.opened(text) == ASKED
    assert numbered.opened(f"Sure! Here are 5 questions:\n\n{text}\n\nLet me know if you need more.") == ASKED


@pytest.mark.parametrize("change, why", [
    (("5. What can be inferred? It is an old song.", ""), "4 numbered answers where 5"),
    (("What is the mood? It is sad.", "What is the mood?"), "question 2 has no answer"),
    (("What is the mood? It is sad.", "The music is sad."), "question 2 has no answer"),
    (("What is the mood? It is sad.", "The mood. Answer: It is sad."), "question 2 is no question"),
    (("What is the mood? It is sad.", "What is the mood? Answer: What is the mood?"), "answer 2 repeats"),
    (("What is the mood? It is sad.", "What is the tempo? It is fast."), "asked before"),
    (("3. Which", "4. Which"), "number 4 where 3"),
    (("4. Is", "6. Is"), "number 6 where 4"),
])
def test_wrong_question_lists_are_refused_by_name(change, why):
    text = "\n".join(f"{number}. {question} {answer}" for number, (question, answer) in enumerate(ASKED, 1))
    assert change[0] in text
    with pytest.raises(Unfit, match=why):
        numbered.opened(text.replace(*change))
